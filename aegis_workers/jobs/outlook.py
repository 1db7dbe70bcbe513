"""What a job's calls would find if they were fed now: the engine that would serve them, or why none would."""

import time
from collections.abc import Mapping

import redis.asyncio

from aegis_workers import routing
from aegis_workers.dispatch import fleet
from aegis_workers.engines.base import Readiness
from aegis_workers.routing import Decision, Engine, EngineView, TaskType
from aegis_workers.settings import Settings
from aegis_workers.state import engine_status
from aegis_workers.state import mode as modes
from aegis_workers.state.engine_status import EngineStatus, Statuses

# No push tells the leader of a change; what is fed meanwhile is routed again at its task boundary.
_MAX_AGE_S = 0.25


class Outlook:
    """Reads mode and engines from Redis, and remembers them for a moment."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings) -> None:
        self._settings = settings
        self._mode = modes.cache(client, settings.llm_engine_mode)
        self._statuses = engine_status.cache(client)
        self._read_at = float("-inf")

    async def decide(self, *, only: Engine | None = None) -> Decision:
        """Where a chunk would go now. `only`: the engine that its job stays on."""
        now = time.monotonic()
        if now - self._read_at >= _MAX_AGE_S:
            self._mode.drop()
            self._statuses.drop()
            self._read_at = now
        mode, statuses = (await self._mode.read()).value.mode, (await self._statuses.read()).value
        found = views(statuses, self._settings)
        return routing.decide(TaskType.EXTRACTION, mode, found, self._settings.fallback, only=only)


def views(statuses: Statuses, settings: Settings) -> Mapping[Engine, EngineView]:
    """The engines as workers find them: whoever asks may have none of their addresses."""
    now_ms = int(time.time() * 1000)
    return {engine: _view(engine, statuses[engine], settings, now_ms) for engine in Engine}


def _view(engine: Engine, status: EngineStatus, settings: Settings, now_ms: int) -> EngineView:
    ready = (replica for replica in status.replicas if replica.state is Readiness.READY)
    return EngineView(
        configured=bool(status.replicas) or settings.model(engine) is not None,
        up=not status.fenced and any(replica.breaker.lets_through(now_ms) for replica in ready),
        starting=status.is_starting,
        reason=fleet.not_up(status, now_ms),
    )
