"""One worker of all looks at the engines, shares what it finds, and warms up at start what the mode will use."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from aegis_workers.engines.base import EngineClient, Readiness
from aegis_workers.errors import EngineError
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.state import connection, engine_status, keys, leader, slots
from aegis_workers.state.cached import Cached
from aegis_workers.state.engine_status import EngineStatus, ReplicaStatus, Statuses
from aegis_workers.state.lease import Lease
from aegis_workers.state.mode import ModeReading
from aegis_workers.worker.repetition import Repetition

log = structlog.get_logger(__name__)

Clients = Mapping[Engine, Sequence[EngineClient]]
Found = Mapping[Engine, Sequence[ReplicaStatus]]

# A round takes up to two time limits, one of the probe and one of the proof; the lease outlives it, and a missed one.
_LIMITS_A_ROUND, _MISSED_ROUNDS = 2, 2


def should_warm_up(mode: Mode, found: Found, *, room_for_both: bool) -> bool:
    """Whether Ollama's model should be loaded at start.

    Not in mode `vllm`; nor while a vLLM answers, unless both fit: loading would take the memory that it stands on.
    """
    if mode is Mode.VLLM:
        return False
    vllm_answers = any(replica.state is not Readiness.UNAVAILABLE for replica in found[Engine.VLLM])
    return room_for_both or not vllm_answers


class Prober:
    """Looks at every replica once an interval while it holds the lease; otherwise stands by."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        clients: Clients,
        settings: Settings,
        mode: Cached[ModeReading],
        statuses: Cached[Statuses],
    ) -> None:
        self._redis = client
        self._clients = clients
        self._settings = settings
        self._mode = mode
        self._statuses = statuses
        lease_s = _MISSED_ROUNDS * settings.probe_interval_s + _LIMITS_A_ROUND * settings.probe_timeout_s
        self._lease = Lease(client, keys.PROBER, ttl_s=lease_s)
        self._met: set[str] = set()
        self._skipped = Repetition()

    async def run(self) -> None:
        """Probes until cancelled, then lets another worker take over at once."""
        async with asyncio.TaskGroup() as group:
            try:
                while True:
                    await self._round(group)
                    await asyncio.sleep(self._settings.probe_interval_s)
            finally:
                await asyncio.shield(self._stand_down())

    async def _round(self, group: asyncio.TaskGroup) -> None:
        try:
            if await self._lease.hold():
                found = await self._look()
                await self._warm_up_new(found, group)
        except (RedisError, OSError) as error:
            if self._skipped.is_due():
                log.warning("probe.skipped", error=str(connection.failure(self._settings, error)))
        else:
            self._skipped.end()

    async def _stand_down(self) -> None:
        try:
            await self._lease.drop()
        except (RedisError, OSError):
            log.debug("probe.lease_left", reason="Redis does not answer; the lease will expire")

    async def _look(self) -> Found:
        before = (await self._statuses.read()).value
        known = {replica.url: replica.state for status in before.values() for replica in status.replicas}
        clients = [client for replicas in self._clients.values() for client in replicas]
        results = await asyncio.gather(*(self._examine(client, known.get(client.url)) for client in clients))
        by_url = dict(zip((client.url for client in clients), results, strict=True))
        found = {engine: [by_url[client.url] for client in self._clients[engine]] for engine in Engine}
        for engine, replicas in found.items():
            await engine_status.report(self._redis, engine, replicas, complete=True)
        return found

    async def _examine(self, client: EngineClient, before: Readiness | None) -> ReplicaStatus:
        status = engine_status.observed(client.url, await client.probe())
        newly_ready = status.state is Readiness.READY and before is not Readiness.READY
        if not newly_ready or not status.loaded or (await self._status(client.engine)).fenced:
            return status  # a fenced engine is the controller's to prove: one that is to unload would load again
        return await self._proven(client, status)

    async def _status(self, engine: Engine) -> EngineStatus:
        return (await self._statuses.read()).value[engine]

    async def _proven(self, client: EngineClient, status: ReplicaStatus) -> ReplicaStatus:
        """A server that answers need not generate: it counts as ready only once it has completed a token."""
        try:
            async with asyncio.timeout(self._settings.probe_timeout_s):
                await client.prove()
        except (EngineError, TimeoutError) as error:
            why = str(error) or f"nothing within {self._settings.probe_timeout_s:g} s"
            return replace(status, state=Readiness.STARTING, reason=f"answers, but completes no token yet: {why}")
        await slots.close_breaker(self._redis, client.engine, client.url)
        log.info("engine.ready", engine=client.engine.value, url=client.url)
        return status

    async def _warm_up_new(self, found: Found, group: asyncio.TaskGroup) -> None:
        """Considers each replica once, when it first answers: a model that was unloaded later is not wanted any more."""
        ready = {replica.url: replica for replica in found[Engine.OLLAMA] if replica.state is Readiness.READY}
        cold = {url for url, replica in ready.items() if not replica.loaded and url not in self._met}
        self._met |= ready.keys()
        if not cold:
            return
        if await self._is_led(Engine.OLLAMA):
            log.info("warm_up.skipped", reason="the controller says what is loaded, and when")
            return
        mode = (await self._mode.read()).value.mode
        if not should_warm_up(mode, found, room_for_both=self._settings.has_room_for_both()):
            log.info("warm_up.skipped", mode=mode.value, reason=f"mode {mode}, or a vLLM holds the memory")
            return
        for client in self._clients[Engine.OLLAMA]:
            if client.url in cold:
                group.create_task(_warm_up(client))

    async def _is_led(self, engine: Engine) -> bool:
        """Whether a controller looks after the engine; what it fenced stays its own also while none leads."""
        status = await self._status(engine)
        return status.fenced or (status.control is not None and await leader.is_there(self._redis))


async def _warm_up(client: EngineClient) -> None:
    try:
        await client.warm_up()
        log.info("warm_up.finished", engine=client.engine.value, url=client.url)
    except EngineError as error:
        log.warning("warm_up.failed", engine=client.engine.value, url=client.url, error=str(error))
