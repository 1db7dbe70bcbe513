"""The system as Redis knows it at one moment."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from aegis_workers.cli import memory_words
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import connection, engine_status, leader, memory, workers
from aegis_workers.state import mode as modes
from aegis_workers.state.engine_status import EngineStatus, ReplicaStatus
from aegis_workers.state.workers import WorkerReport

# The prober's lease outlives as many looks; then another worker should long have taken over.
_MISSED_LOOKS = 3


def take(settings: Settings) -> dict[str, Any]:
    """Mode, engines, what waits, and the workers. Times in epoch seconds."""
    with connection.explained(settings), connection.open_sync(settings) as client:
        mode = modes.read(client, settings.llm_engine_mode)
        reports = workers.read_all(client)
        statuses = {engine: engine_status.read(client, engine) for engine in Engine}
        measured, controller = memory.read(client), leader.read(client)
    waiting: Counter[str] = Counter()
    for report in reports:
        waiting.update(report.waiting)
    return {
        "mode": mode.mode.value,
        "problem": mode.problem,
        "engines": {engine.value: _engine(engine, statuses[engine], reports, settings) for engine in Engine},
        "controller": controller,
        "memory": memory_words.values(measured),
        "waiting": dict(waiting),
        "workers": [{"id": report.worker_id, "queue": report.queue, "pid": report.pid} for report in reports],
    }


def _engine(engine: Engine, status: EngineStatus, reports: Sequence[WorkerReport], settings: Settings) -> dict[str, Any]:
    configured = bool(status.replicas) or settings.model(engine) is not None
    return {
        "state": status.state.value if configured else "not_configured",
        "reason": _reason(status) if configured else f"AEGIS_{engine.upper()}_MODEL is not set",
        "stale": configured and _is_stale(status, settings),
        "since": status.since,
        "probed_at": status.probed_at,
        "in_flight": sum(report.in_flight.get(engine, 0) for report in reports),
        "limit": settings.limit(engine) * max(1, len(status.replicas)),
        "tokens_per_s": round(sum(report.tokens_per_s.get(engine, 0.0) for report in reports), 1),
        "replicas": [_replica(replica) for replica in status.replicas],
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


def _replica(replica: ReplicaStatus) -> dict[str, Any]:
    now_ms = time.time() * 1000
    return {
        "url": replica.url,
        "state": replica.state.value,
        "reason": replica.reason or replica.breaker.explain(now_ms),
        "loaded": replica.loaded,
        "breaker": replica.breaker.stands(now_ms).value,
    }


def _reason(status: EngineStatus) -> str:
    """Why calls cannot go there now: an engine that is ready is passed over while its breakers are open."""
    return status.reason or next(filter(None, (_replica(replica)["reason"] for replica in status.replicas)), "")


def _is_stale(status: EngineStatus, settings: Settings) -> bool:
    """Whether so many looks were missed that what is on record may be wrong."""
    allowed_s = _MISSED_LOOKS * settings.probe_interval_s + settings.probe_timeout_s
    return status.probed_at is None or time.time() - status.probed_at > allowed_s
