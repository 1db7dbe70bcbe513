"""Time as the simulators know it: a clock that tests can replace, and waits that the end of the engine interrupts."""

import asyncio
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A callback that is due; cancelling one that has run does nothing."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Time in seconds, and callbacks at a time. An asyncio event loop is one."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer: ...


class Interrupted(Exception):
    """The engine ended or paused while a call waited."""


class Timeline:
    """Every wait of one engine, so that the engine's end reaches all of them at once."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._pending: set[asyncio.Future[None]] = set()
        self._interruptions = 0
        self._ended = False

    def now(self) -> float:
        """Seconds since the clock's own beginning."""
        return self.clock.time()

    async def wait(self, future: asyncio.Future[None]) -> None:
        """Return when `future` is done. Raises `Interrupted` when the engine ends or pauses before."""
        interruptions = self._interruptions
        if self._ended:
            raise Interrupted
        self._pending.add(future)
        try:
            await future
        finally:
            self._pending.discard(future)
        if self._interruptions != interruptions:
            raise Interrupted

    async def sleep(self, duration_s: float) -> None:
        """Return after `duration_s`."""
        if duration_s <= 0:
            return
        future = asyncio.get_running_loop().create_future()
        timer = self.clock.call_at(self.now() + duration_s, lambda: resolve(future))
        try:
            await self.wait(future)
        finally:
            timer.cancel()

    async def forever(self) -> None:
        """Return never: only cancelling or an interruption ends it."""
        await self.wait(asyncio.get_running_loop().create_future())

    def interrupt(self) -> None:
        """End every wait of this moment with `Interrupted`."""
        self._interruptions += 1
        for future in self._pending:
            resolve(future)

    def end(self) -> None:
        """End every wait of this moment and all that would come later."""
        self._ended = True
        self.interrupt()


def resolve(future: asyncio.Future[None]) -> None:
    """Wake whoever waits for `future`; one that is done or was given up is left as it is."""
    if not future.done():
        future.set_result(None)


class Gate:
    """What calls pass through; while it is closed they wait."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._waiting: set[asyncio.Future[None]] = set()
        self.closed = False

    def close(self) -> None:
        """Make the calls that come from now on wait."""
        self.closed = True

    def open(self) -> None:
        """Let the waiting calls through."""
        self.closed = False
        for future in self._waiting:
            resolve(future)

    async def passed(self) -> None:
        """Return once the gate is open."""
        while self.closed:
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await self._timeline.wait(future)
            finally:
                self._waiting.discard(future)
