"""The right to generate: at most so many calls at once, the others in the order in which they came."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aegis_workers.simulator.clock import Timeline, resolve
from aegis_workers.simulator.stats import Stats


class QueueFull(Exception):
    """As many calls run and wait as may."""


class Slots:
    """`size` slots, handed on in the order of arrival.

    `bound` limits the calls that run and wait together (None: nobody is turned away), also where slots are free: so vLLM counts.
    """

    def __init__(self, timeline: Timeline, stats: Stats, *, size: int, bound: int | None = None) -> None:
        self._timeline = timeline
        self._stats = stats
        self._size = size
        self._free = size
        self._bound = bound
        self._queue: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Hold a slot, after waiting for one. Raises `QueueFull` where too many wait already."""
        await self._take()
        self._stats.run()
        try:
            yield
        finally:
            self._stats.running -= 1
            self._give()

    async def _take(self) -> None:
        if self._bound is not None and self._size - self._free + len(self._queue) >= self._bound:
            raise QueueFull
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await self._timeline.wait(turn)
        except BaseException:
            self._leave(turn)
            raise

    def _leave(self, turn: asyncio.Future[None]) -> None:
        if turn in self._queue:
            self._queue.remove(turn)
        else:  # the slot was handed over in the moment in which the caller left
            self._give()

    def _give(self) -> None:
        # Only a turn that gets the slot leaves the queue here: one given up still stands in it, which is how `_leave` knows.
        turn = next((turn for turn in self._queue if not turn.done()), None)
        if turn is None:
            self._free += 1
            return
        self._queue.remove(turn)
        resolve(turn)
