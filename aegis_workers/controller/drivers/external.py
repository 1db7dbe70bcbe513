"""An engine that somebody else runs: looked at, and never started or stopped."""

import asyncio
from collections.abc import Sequence
from typing import Final

from aegis_workers.controller.driver import Confirm, Observation, Presence, unasked
from aegis_workers.engines.base import EngineClient, Probe, Readiness
from aegis_workers.errors import DriverFailed
from aegis_workers.routing import Engine


class ExternalDriver:
    """Satisfies `Driver`. The clients are borrowed: whoever gave them closes them."""

    name: Final = "external"
    can_start: Final = False

    def __init__(self, engine: Engine, replicas: Sequence[EngineClient]) -> None:
        self.engine: Final = engine
        self._replicas = replicas

    async def observe(self) -> Observation:
        """See `Driver`. Present where one replica is ready."""
        if not self._replicas:
            return Observation(presence=Presence.ABSENT, reason="not configured")
        return judge(await probe_all(self._replicas))

    async def start(self, confirm: Confirm = unasked) -> None:
        """See `Driver`: never possible."""
        del confirm
        raise DriverFailed(self._not_ours("started"))

    async def release(self, confirm: Confirm = unasked) -> None:
        """See `Driver`: never possible."""
        del confirm
        raise DriverFailed(self._not_ours("stopped"))

    async def aclose(self) -> None:
        """See `Driver`."""

    def _not_ours(self, done: str) -> str:
        return f"{self.engine.label} is not {done} from here: somebody else runs it (AEGIS_{self.engine.upper()}_DRIVER=external)"


async def probe_all(replicas: Sequence[EngineClient]) -> Sequence[Probe]:
    """What each replica is now, all asked at the same time."""
    return await asyncio.gather(*(replica.probe() for replica in replicas))


def judge(probes: Sequence[Probe]) -> Observation:
    """What there is of an engine of which only the answers are known: ready is present, and starting is coming."""
    for readiness, presence in ((Readiness.READY, Presence.PRESENT), (Readiness.STARTING, Presence.COMING)):
        found = next((probe for probe in probes if probe.readiness is readiness), None)
        if found is not None:
            return Observation(presence=presence, reason=found.reason)
    return Observation(presence=Presence.ABSENT, reason=probes[0].reason if probes else "")
