"""Messages that a newer version of this package wrote: they are left to workers that can read them, for as long as that helps.

While workers are updated one after another, old and new ones take from the same queue.
"""

import time
from collections.abc import Mapping
from typing import Any

import structlog

from aegis_workers import settings as settings_module
from aegis_workers.dispatch import inputs
from aegis_workers.state.envelope import ENQUEUED_AT
from aegis_workers.worker.repetition import Repetition

log = structlog.get_logger(__name__)

# Where no worker can read it, a message comes by again and again: each time it costs a thread so long.
PAUSE_S = 1.0
# What this package may come to call its tasks.
_NAMES = "aegis."
_said = Repetition()


def is_left(version: Any, headers: Any, queue: str) -> bool:
    """Whether a message of this version goes back to its queue; not, once a call of that queue would be out of time."""
    return inputs.is_newer(version) and _has_time(headers, queue)


def is_task_left(name: Any, headers: Any, queue: str) -> bool:
    """Likewise for a message of a task that this version does not have."""
    return isinstance(name, str) and name.startswith(_NAMES) and _has_time(headers, queue)


def say(queue: str) -> None:
    """Say now and then that messages are left to others."""
    if _said.is_due():
        log.warning("message.left_to_newer", queue=queue, reason="a newer version wrote it: update this worker")


def _has_time(headers: Any, queue: str) -> bool:
    """A message that does not say when it was enqueued says so from its second delivery on."""
    said = headers.get(ENQUEUED_AT) if isinstance(headers, Mapping) else None
    enqueued_at = float(said) if isinstance(said, int | float) else time.time()
    settings = settings_module.load()
    within_s = settings.extraction_deadline_s if queue == "extraction" else settings.chat_deadline_s
    return time.time() - enqueued_at < within_s
