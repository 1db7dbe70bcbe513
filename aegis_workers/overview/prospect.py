"""What a switch would do, without doing it."""

from typing import Any

import redis

from aegis_workers.controller import outlook
from aegis_workers.controller.outlook import Prospect
from aegis_workers.controller.snapshot import Snapshot
from aegis_workers.overview import look as looks
from aegis_workers.overview import snapshot
from aegis_workers.overview.look import Look
from aegis_workers.routing import Engine, Mode, TaskType
from aegis_workers.settings import Settings


def foresee(client: redis.Redis, settings: Settings, mode: Mode) -> dict[str, Any]:
    """What a switch to `mode` would do, as plain values. Raises `RedisError`."""
    look = looks.take(client, settings)
    found = outlook.prospects(view(look, mode, queued=_queued(client)))
    return {
        "mode": mode.value,
        "previous": look.mode.raw,
        "dry_run": True,
        "engines": {engine.value: _engine(settings, found[engine], look.in_flight(engine)) for engine in Engine},
        "memory": snapshot.memory_values(look.memory),
        "controller": look.controller,
    }


def view(look: Look, mode: Mode, *, queued: int) -> Snapshot:
    """The engines under `mode`; `queued`: messages in the queue of extraction."""
    return outlook.view(look.settings, mode, look.statuses, look.memory, now=look.at, queued=queued)


def _queued(client: redis.Redis) -> int:
    return int(client.llen(TaskType.EXTRACTION))


def _engine(settings: Settings, prospect: Prospect, in_flight: int) -> dict[str, Any]:
    return {
        "configured": prospect.facts.configured,
        "act": prospect.act.value,
        "reason": prospect.want.reason,
        "driver": prospect.facts.driver,
        "in_flight": in_flight,
        "drain_s": settings.drain_s,
        "drain_then": settings.drain_then,
        "needs_gb": settings.memory_gb(prospect.facts.engine),
    }
