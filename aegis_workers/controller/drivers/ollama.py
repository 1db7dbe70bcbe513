"""Ollama, told to load its model and to unload it; the server itself runs all the time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aegis_workers.controller.driver import Confirm, Observation, Presence, unasked
from aegis_workers.controller.drivers import external
from aegis_workers.engines.base import EngineClient, Probe, Readiness
from aegis_workers.errors import DriverFailed, EngineError, RequestRefused
from aegis_workers.routing import Engine

# An unload is answered at once, and done later.
_TOLD_WITHIN_S = 5.0
# So long after a first probe in vain the model is taken to be where it was: a busy server misses one now and then, and still
# holds its memory. Then the server is gone, and what it held with it.
_MISSED_S = 5.0


class OllamaDriver:
    """Satisfies `Driver`. The clients are borrowed: whoever gave them closes them.

    Absent is a server without the model in memory, and one that has not answered for a while. Its memory may come back later.
    A model that is not in memory has not ended: it was unloaded. Only a load can fail.
    """

    engine: Final = Engine.OLLAMA
    name: Final = "ollama"
    can_start: Final = True

    def __init__(self, replicas: Sequence[EngineClient]) -> None:
        self._replicas = replicas
        self._loading: asyncio.Task[None] | None = None
        self._failed: str | None = None
        self._released = False
        self._was_loaded = False
        self._missed_at: float | None = None

    async def observe(self) -> Observation:
        """See `Driver`."""
        self._collect()
        probes = await external.probe_all(self._replicas)
        unwell = next((probe.reason for probe in probes if probe.readiness is not Readiness.READY), "")
        if self._is_loaded(probes):
            if self._released:
                return Observation(presence=Presence.GOING, reason="told to unload, and its model is still in memory")
            return Observation(presence=Presence.COMING if self._loading else Presence.PRESENT, reason=unwell)
        if self._loading is not None:
            return Observation(presence=Presence.COMING, reason="loading its model")
        if self._failed is not None:
            return Observation(presence=Presence.ABSENT, reason=f"its model did not load: {self._failed}", ended=True)
        return Observation(presence=Presence.ABSENT, reason=unwell or "its model is not in memory")

    async def start(self, confirm: Confirm = unasked) -> None:
        """See `Driver`. How a load ends is seen by `observe`."""
        self._collect()
        if self._loading is not None:
            return
        await confirm()
        self._released, self._failed = False, None
        self._loading = asyncio.create_task(self._each(lambda replica: replica.warm_up()))

    async def release(self, confirm: Confirm = unasked) -> None:
        """See `Driver`. Told anew each time: a call of somebody else's keeps the model, or loads it again."""
        await self._stop_loading()
        await confirm()
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

    def _is_loaded(self, probes: Sequence[Probe]) -> bool:
        """By what the servers say; where one does not answer, by what they said last, for a while."""
        loaded = any(probe.loaded for probe in probes)
        if loaded or all(probe.readiness is Readiness.READY or probe.models for probe in probes):
            self._was_loaded, self._missed_at = loaded, None
            return loaded
        now = time.monotonic()
        self._missed_at = now if self._missed_at is None else self._missed_at
        return self._was_loaded and now - self._missed_at < _MISSED_S

    def _collect(self) -> None:
        """Keeps in words what a load that has ended came to."""
        if self._loading is None or not self._loading.done():
            return
        loading, self._loading = self._loading, None
        error = None if loading.cancelled() else loading.exception()
        if error is not None:
            self._failed = str(error) if isinstance(error, EngineError) else type(error).__name__

    async def _stop_loading(self) -> None:
        loading, self._loading = self._loading, None
        if loading is not None:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
