"""A snapshot, taken of Redis, of the engines through their drivers and clients, and of the memory."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from aegis_workers import origins
from aegis_workers.controller import snapshot as snapshots
from aegis_workers.controller.demand import Demand
from aegis_workers.controller.driver import Driver, Observation, Presence
from aegis_workers.controller.equipment import Equipment
from aegis_workers.controller.hands import Felt
from aegis_workers.controller.snapshot import EngineFacts, Memory, Snapshot, Work
from aegis_workers.engines.base import Readiness
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.state import engine_control, slots
from aegis_workers.state import mode as modes
from aegis_workers.state.engine_control import Control, Phase, Record

# A driver that does not say within this time what it sees is passed over, and so is the memory.
_WITHIN_S: Final = 10.0
# Where the probe decides: nobody has met the engine yet, or it is on its way.
_PROBED: Final = frozenset({None, Phase.STARTING})
# Where an engine may be gone though nothing was seen of it since.
_GONE: Final = frozenset({Phase.STOPPED, Phase.FAILED})


@dataclass(frozen=True, kw_only=True)
class Sight:
    """A snapshot, and what was written of each engine when it was taken."""

    snapshot: Snapshot
    written: Mapping[Engine, str]


class Senses:
    """Looks at everything anew each time. Times are those of Redis's clock, which all controllers share."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings, equipment: Equipment) -> None:
        self._client = client
        self._settings = settings
        self._equipment = equipment
        self._mode = modes.cache(client, settings.llm_engine_mode)
        self._rules = snapshots.rules(settings)
        self._default_origin = origins.chosen_by(settings, "LLM_ENGINE_MODE")
        self._demand = Demand(client)
        self._total_gb: float | None = None
        self._seen: dict[Engine, Presence] = {}
        self._mode_is_news = False
        self._asked_at: float | None = None

    def note_mode_written(self) -> None:
        """The mode key was written: what failed is asked for anew, whoever wrote it and whatever it held before."""
        self._mode_is_news = True

    async def look(self, felt: Mapping[Engine, Felt]) -> Sight:
        """What is now. Raises `RedisError` and `OSError` where Redis does not say."""
        now, mode = await self._now(), await self._read_mode()
        if self._mode_is_news:  # only now: what came before may have raised
            self._asked_at, self._mode_is_news = now, False
        records = await engine_control.read_all(self._client)
        facts, found = await asyncio.gather(
            asyncio.gather(*(self._facts(engine, records[engine], felt[engine]) for engine in Engine)), self._measure()
        )
        snapshot = Snapshot(
            now=now,
            mode=mode,
            origin=self._origin(mode),
            engines={one.engine: one for one in facts},
            memory=found,
            rules=self._rules,
            work=await self._demand.read() if self._rules.on_demand else Work(),
        )
        return Sight(snapshot=snapshot, written={engine: record.written for engine, record in records.items()})

    async def _now(self) -> float:
        time: Any = await self._client.time()
        seconds, micros = time
        return int(seconds) + int(micros) / 1e6

    async def _read_mode(self) -> Mode:
        self._mode.drop()
        reading = await self._mode.read()
        if reading.stale:
            raise RedisConnectionError("Redis did not say what the mode is")
        return reading.value.mode

    def _origin(self, mode: Mode) -> str:
        """The configured default is named where it is in force; whoever wrote the same word meant the same."""
        is_default = mode is self._settings.llm_engine_mode and self._default_origin != "default"
        return self._default_origin if is_default else f"mode {mode}"

    async def _facts(self, engine: Engine, record: Record, felt: Felt) -> EngineFacts:
        driver, clients = self._equipment.drivers[engine], self._equipment.clients[engine]
        seen = await self._observe(driver, record.control)
        return EngineFacts(
            engine=engine,
            configured=bool(clients),
            driver=driver.name,
            can_start=driver.can_start,
            seen=seen,
            answers=await self._answers(engine, record.control, seen),
            leases=await slots.count(self._client, [client.url for client in clients]),
            control=record.control,
            asked=max((at for at in (record.asked_at, self._asked_at) if at is not None), default=None),
            **asdict(felt),
        )

    async def _observe(self, driver: Driver, control: Control | None) -> Observation:
        """What the driver sees. Of one that does not answer, what it saw last, unless the engine may have come meanwhile."""
        try:
            async with asyncio.timeout(_WITHIN_S):
                seen = await driver.observe()
        except TimeoutError:
            last = self._seen.get(driver.engine, Presence.COMING)
            may_have_come = last is Presence.ABSENT and control is not None and control.phase not in _GONE
            reason = f"the driver {driver.name} does not answer within {_WITHIN_S:g} s"
            return Observation(presence=Presence.COMING if may_have_come else last, reason=reason)
        self._seen[driver.engine] = seen.presence
        return seen

    async def _answers(self, engine: Engine, control: Control | None, seen: Observation) -> bool:
        """Whether every replica is ready. Asked only where it decides something: a probe of a busy engine may take long."""
        phase = None if control is None else control.phase
        if seen.presence is not Presence.PRESENT or phase not in _PROBED:
            return False
        probes = await asyncio.gather(*(client.probe() for client in self._equipment.clients[engine]))
        return all(probe.readiness is Readiness.READY for probe in probes)

    async def _measure(self) -> Memory:
        """What was measured; how much there is in all does not change because it could not be read once."""
        try:
            async with asyncio.timeout(_WITHIN_S):
                found = await self._equipment.gauge.measure()
        except TimeoutError:
            source = self._settings.memory_source
            why = f"AEGIS_MEMORY_SOURCE={source} gives nothing within {_WITHIN_S:g} s: see what it waits for, or set another"
            found = Memory(source=source, why=why)
        self._total_gb = self._total_gb if found.total_gb is None else found.total_gb
        return replace(found, total_gb=self._total_gb)
