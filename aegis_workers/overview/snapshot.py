"""What `engines --json` prints: mode, engines, what waits, and the workers."""

from dataclasses import asdict
from typing import Any

import redis

from aegis_workers.overview import look as looks
from aegis_workers.overview.look import Look
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state.engine_status import EngineStatus, ReplicaStatus
from aegis_workers.state.memory import Memory


def take(client: redis.Redis, settings: Settings) -> dict[str, Any]:
    """The system now. Times in epoch seconds. Raises `RedisError`."""
    return values(looks.take(client, settings))


def values(look: Look) -> dict[str, Any]:
    """What a look found, as plain values."""
    return {
        "mode": look.mode.mode.value,
        "problem": look.mode.problem,
        "engines": {engine.value: engine_values(look, engine) for engine in Engine},
        "controller": look.controller,
        "memory": memory_values(look.memory),
        "waiting": dict(look.waiting()),
        "workers": [{"id": report.worker_id, "queue": report.queue, "pid": report.pid} for report in look.reports],
    }


def memory_values(memory: Memory | None) -> dict[str, Any] | None:
    """What the controller measured; None where none does."""
    return None if memory is None else asdict(memory)


def engine_values(look: Look, engine: Engine) -> dict[str, Any]:
    """One engine: as it was found, what is in flight there, and what the controller makes of it."""
    status, configured = look.statuses[engine], look.is_configured(engine)
    return {
        "state": status.state.value if configured else "not_configured",
        "reason": _reason(look, status) if configured else f"AEGIS_{engine.upper()}_MODEL is not set",
        "stale": configured and look.is_stale(engine),
        "since": status.since,
        "probed_at": status.probed_at,
        "in_flight": look.in_flight(engine),
        "limit": look.limit(engine),
        "tokens_per_s": round(look.tokens_per_s(engine) or 0.0, 1),
        "replicas": [_replica(look, replica) for replica in status.replicas],
        **_control(status),
    }


def _control(status: EngineStatus) -> dict[str, Any]:
    """What the controller makes of an engine; nothing of it is known where none ever led."""
    control = status.control
    return {
        "phase": control and control.phase.value,
        "phase_since": control and control.since,
        "phase_reason": control and control.reason,
        "said": control and control.said,
        "fenced": status.fenced,
        "epoch": status.epoch or None,
        "driver": control and control.driver,
        "origin": control and control.origin,
        "failures": control.failures if control else 0,
        "retry_at": control and control.retry_at,
    }


def _replica(look: Look, replica: ReplicaStatus) -> dict[str, Any]:
    return {
        "url": replica.url,
        "state": replica.state.value,
        "reason": replica.reason or replica.breaker.explain(look.now_ms),
        "loaded": replica.loaded,
        "breaker": replica.breaker.stands(look.now_ms).value,
    }


def _reason(look: Look, status: EngineStatus) -> str:
    """Why calls cannot go there now: an engine that is ready is passed over while its breakers are open."""
    return status.reason or next(filter(None, (_replica(look, replica)["reason"] for replica in status.replicas)), "")
