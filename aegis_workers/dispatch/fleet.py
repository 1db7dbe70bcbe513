"""The engines of a process as routing sees them: its clients, their limits, and what is known of their states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aegis_workers import routing
from aegis_workers.engines.base import EngineClient, Readiness
from aegis_workers.routing import Decision, Engine, EngineView, Lane, Mode, Policy, TaskType
from aegis_workers.state.engine_status import EngineStatus, Statuses
from aegis_workers.state.slots import Replica


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may be in flight at each replica of an engine, and how much of it bulk work leaves to the interactive lane."""

    limit: int
    kept: int = 0


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The clients of each engine, none where it is not configured, and the rules of their use."""

    clients: Mapping[Engine, Sequence[EngineClient]]
    limits: Mapping[Engine, Limits]
    policy: Policy

    def replicas(self, engine: Engine) -> list[Replica]:
        """The engine's replicas with their limits."""
        limits = self.limits[engine]
        return [Replica(url=client.url, limit=limits.limit, kept=limits.kept) for client in self.clients[engine]]

    def decide(self, task_type: TaskType, mode: Mode, statuses: Statuses, now_ms: int, *, only: Engine | None = None) -> Decision:
        """Where a call goes by what is known; `only`: the engine that its job stays on."""
        views = {engine: self._view(engine, statuses[engine], now_ms) for engine in Engine}
        return routing.decide(task_type, mode, views, self.policy, only=only)

    def _view(self, engine: Engine, status: EngineStatus, now_ms: int) -> EngineView:
        """An engine's status as it is for this process: another may know it by other addresses."""
        ours = {client.url for client in self.clients[engine]}
        ready = [replica for replica in status.replicas if replica.state is Readiness.READY]
        here = [replica for replica in ready if replica.url in ours]
        unknown = f"no replica in this worker's AEGIS_{engine.upper()}_URL is ready"
        return EngineView(
            configured=bool(ours),
            up=not status.fenced and any(replica.breaker.lets_through(now_ms) for replica in here),
            starting=status.is_starting,
            reason=unknown if ready and not here and not status.fenced else not_up(status, now_ms),
        )

    def full(self, engine: Engine, lane: Lane) -> str:
        """What a call of this lane waits for when the engine has no slot for it, in words."""
        count, limits = len(self.clients[engine]), self.limits[engine]
        total = limits.limit * count
        if lane is Lane.BULK and limits.kept:
            usable = total - limits.kept * count
            return f"waits for a slot: all {usable} of {engine.label}'s {total} slots that extraction may have are taken"
        return f"waits for a slot: {engine.label} has {total} of {total} calls in flight"


def not_up(status: EngineStatus, now_ms: int) -> str:
    """Why an engine is not up, in words: its controller's where it is fenced, its breakers' where it is ready, or its state's."""
    if status.fenced:
        return status.fence_reason
    words = (replica.breaker.explain(now_ms) for replica in status.replicas if replica.state is Readiness.READY)
    return next(filter(None, words), status.reason)
