"""aegis-workers: Celery workers for people who run their own language-model engines.

The names below are what programs may rest on. They are loaded when first used, so that a command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aegis_workers.bulk import Job as Job
    from aegis_workers.bulk import submit as submit
    from aegis_workers.celery import app as app
    from aegis_workers.client import chat_stream as chat_stream
    from aegis_workers.client import get_mode as get_mode
    from aegis_workers.client import set_mode as set_mode
    from aegis_workers.tasks import chat as chat
    from aegis_workers.tasks import extract as extract
    from aegis_workers.tasks import extract_batch as extract_batch
    from aegis_workers.tasks import generate as generate

_HOMES = {
    "Job": "aegis_workers.bulk",
    "app": "aegis_workers.celery",
    "chat": "aegis_workers.tasks",
    "chat_stream": "aegis_workers.client",
    "extract": "aegis_workers.tasks",
    "extract_batch": "aegis_workers.tasks",
    "generate": "aegis_workers.tasks",
    "get_mode": "aegis_workers.client",
    "set_mode": "aegis_workers.client",
    "submit": "aegis_workers.bulk",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
