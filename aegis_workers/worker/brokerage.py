"""How Celery and kombu are told where Redis is: the same place as for the rest of this package, in words of their own."""

from typing import Any

from celery import Celery

from aegis_workers import settings as settings_module
from aegis_workers.address import Kind
from aegis_workers.settings import Settings
from aegis_workers.state import sentinels

_RESULTS = "aegis_workers.worker.results"


def addresses(settings: Settings) -> dict[str, Any]:
    """Where messages and results go."""
    address = settings.redis_address
    behind_sentinels = address.kind is Kind.SENTINEL
    results = f"{_RESULTS}:{'SentinelResults' if behind_sentinels else 'Results'}+{address.for_results}"
    # What Celery reads from the address of a Redis, and not from that of a Sentinel.
    certificates = dict(address.tls_arguments) if behind_sentinels else None
    return {"broker_url": address.for_kombu, "result_backend": results, "redis_backend_use_ssl": certificates or None}


def options(settings: Settings) -> dict[str, Any]:
    """What the transport of messages and that of results must know beside the address."""
    return sentinels.celery_options(settings) if settings.redis_address.kind is Kind.SENTINEL else {}


def settings_of(app: Celery) -> Settings:
    """Those of this process, for the Redis to which `app` sends: a program may have set another one in `app.conf`."""
    settings = settings_module.load()
    if app.conf.broker_url == settings.redis_address.for_kombu:
        return settings
    return settings.model_copy(update={"redis_url": app.conf.broker_url, "redis_ca": None})
