"""Ollama, told to load its model and to unload it; the server itself runs all the time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aegis_workers.controller.driver import Observation, Presence
from aegis_workers.controller.drivers import external
from aegis_workers.engines.base import EngineClient, Readiness
from aegis_workers.errors import DriverFailed, EngineError, RequestRefused
from aegis_workers.routing import Engine

# An unload is answered at once, and done later.
_TOLD_WITHIN_S = 5.0


class OllamaDriver:
    """Satisfies `Driver`. The clients are borrowed: whoever gave them closes them.

    Absent is a server without the model in memory, and one that does not answer. Its memory may come back later than that.
    """

    engine: Final = Engine.OLLAMA
    name: Final = "ollama"
    can_start: Final = True

    def __init__(self, replicas: Sequence[EngineClient]) -> None:
        self._replicas = replicas
        self._loading: asyncio.Task[None] | None = None
        self._failed: str | None = None
        self._released = False

    async def observe(self) -> Observation:
        """See `Driver`."""
        self._collect()
        probes = await external.probe_all(self._replicas)
        if any(probe.loaded for probe in probes):
            if self._released:
                return Observation(presence=Presence.GOING, reason="told to unload, and its model is still in memory")
            return Observation(presence=Presence.COMING if self._loading else Presence.PRESENT)
        if self._loading is not None:
            return Observation(presence=Presence.COMING, reason="loading its model")
        if self._failed is not None:
            return Observation(presence=Presence.ABSENT, reason="the model did not load", ended=True, last_words=self._failed)
        unwell = next((probe.reason for probe in probes if probe.readiness is not Readiness.READY), None)
        return Observation(presence=Presence.ABSENT, reason=unwell or "its model is not in memory")

    async def start(self) -> None:
        """See `Driver`. How a load ends is seen by `observe`."""
        self._collect()
        if self._loading is not None:
            return
        self._released, self._failed = False, None
        self._loading = asyncio.create_task(self._each(lambda replica: replica.warm_up()))

    async def release(self) -> None:
        """See `Driver`. Told anew each time: a call of somebody else's keeps the model, or loads it again."""
        await self._stop_loading()
        self._released, self._failed = True, None
        try:
            async with asyncio.timeout(_TOLD_WITHIN_S):
                await self._each(lambda replica: replica.release())
        except TimeoutError:
            raise DriverFailed(f"Ollama did not answer within {_TOLD_WITHIN_S:g} s when it was told to unload") from None
        except EngineError as error:
            if isinstance(error, RequestRefused) and (await self.observe()).presence is Presence.ABSENT:
                return  # a model that the server does not have is not in memory
            raise DriverFailed(f"Ollama did not take the order to unload: {error}") from None

    async def aclose(self) -> None:
        """See `Driver`."""
        await self._stop_loading()

    async def _each(self, order: Callable[[EngineClient], Awaitable[None]]) -> None:
        """All are told, whatever comes of the others; raises what the first of those that failed says."""
        ends = await asyncio.gather(*(order(replica) for replica in self._replicas), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    def _collect(self) -> None:
        """Keeps in words what a load that has ended came to."""
        if self._loading is None or not self._loading.done():
            return
        loading, self._loading = self._loading, None
        error = None if loading.cancelled() else loading.exception()
        if error is not None:
            self._failed = str(error) or repr(error)

    async def _stop_loading(self) -> None:
        loading, self._loading = self._loading, None
        if loading is not None:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
