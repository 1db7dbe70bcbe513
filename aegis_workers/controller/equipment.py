"""What a controller acts through: the drivers and clients of the engines, and what measures the memory."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from aegis_workers.controller import drivers, memory
from aegis_workers.controller.aside import Aside
from aegis_workers.controller.driver import Driver
from aegis_workers.controller.memory import NotMeasured
from aegis_workers.controller.snapshot import Memory
from aegis_workers.engines import clients
from aegis_workers.engines.base import EngineClient
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings


class Gauge(Protocol):
    """What measures the memory of this host."""

    async def measure(self) -> Memory:
        """What there is now: what cannot be measured is None, and `why` says why. Raises at most `TimeoutError`."""
        ...


class HostGauge:
    """Measures as `AEGIS_MEMORY_SOURCE` says, off the event loop. What `auto` has chosen once, it stays with.

    The memory of another place would say nothing of the engines, however well it can be measured.
    """

    def __init__(self, source: str) -> None:
        self._source, self._words = source, ""
        self._measuring = Aside("memory")

    async def measure(self) -> Memory:
        """See `Gauge`."""
        try:
            found = await self._measuring.run(lambda: memory.measure(self._source))
        except NotMeasured as error:
            return Memory(source=self._words or self._source, why=str(error))
        self._source, self._words = found.by, self._words or found.source
        return Memory(free_gb=found.free_gb, total_gb=found.total_gb, source=self._words)


@dataclass(frozen=True, kw_only=True)
class Equipment:
    """`drivers` and `clients` have an entry for each engine; there is no client where it has no model."""

    drivers: Mapping[Engine, Driver]
    clients: Mapping[Engine, Sequence[EngineClient]]
    gauge: Gauge


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Equipment]:
    """The equipment that the settings name, for this event loop. At its end the engines are left as they are."""
    async with AsyncExitStack() as stack:
        replicas = clients.build(settings)
        for client in (client for found in replicas.values() for client in found):
            stack.push_async_callback(client.aclose)
        found = drivers.build(settings, replicas)
        for driver in found.values():
            stack.push_async_callback(driver.aclose)
        yield Equipment(drivers=found, clients=replicas, gauge=HostGauge(settings.memory_source))
