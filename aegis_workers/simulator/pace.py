"""How fast an engine generates: at once, in a fixed time a call, or at a speed that the running calls share."""

import asyncio
import heapq
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Protocol

from aegis_workers.simulator.clock import Timeline, Timer, resolve
from aegis_workers.simulator.options import Options

# Work is counted in tokens: a millionth of one is rounding, and waiting for it would re-arm a timer for nothing.
_ROUNDING = 1e-6


class Share(Protocol):
    """One call's generation while it runs."""

    async def reach(self, tokens: int) -> None:
        """Return when the call has generated `tokens` since its beginning."""
        ...

    def reached(self) -> int:
        """Tokens generated so far, at least."""
        ...


class Meter:
    """A speed of `tokens_per_s` in all: while n calls run, each generates an nth part of it.

    `_work` is what one call would have, had it run since the beginning. It grows by speed / n, so that a call needs one number,
    its `_work` at the end, however often n changes before (processor sharing by virtual time).
    """

    def __init__(self, timeline: Timeline, tokens_per_s: float) -> None:
        self._timeline = timeline
        self._tokens_per_s = tokens_per_s
        self._running = 0
        self._work = 0.0
        self._updated_at = timeline.now()
        self._due: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()
        self._timer: Timer | None = None

    @contextmanager
    def join(self) -> Iterator[Share]:
        """Take part, as one more running call, until the context ends."""
        self._running_changed(1)
        try:
            yield _MeteredShare(self, self.work())
        finally:
            self._running_changed(-1)

    def work(self) -> float:
        """What one call would have generated since the beginning, now."""
        now = self._timeline.now()
        if self._running:
            self._work += (now - self._updated_at) * self._tokens_per_s / self._running
        self._updated_at = now
        return self._work

    async def until(self, work: float) -> None:
        """Return when `work()` has come to `work`."""
        if self.work() >= work - _ROUNDING:
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._due, (work, next(self._order), future))
        self._arm()
        await self._timeline.wait(future)

    def _running_changed(self, by: int) -> None:
        self.work()
        self._running += by
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._due and self._due[0][2].done():
            heapq.heappop(self._due)
        if self._due and self._running:
            left = max(0.0, self._due[0][0] - self._work) * self._running / self._tokens_per_s
            self._timer = self._timeline.clock.call_at(self._updated_at + left, self._wake)

    def _wake(self) -> None:
        work = self.work()
        while self._due and self._due[0][0] <= work + _ROUNDING:
            resolve(heapq.heappop(self._due)[2])
        self._arm()


class _MeteredShare:
    def __init__(self, meter: Meter, begun_at: float) -> None:
        self._meter = meter
        self._begun_at = begun_at

    async def reach(self, tokens: int) -> None:
        await self._meter.until(self._begun_at + tokens)

    def reached(self) -> int:
        return int(self._meter.work() - self._begun_at + _ROUNDING)


class _TimedShare:
    def __init__(self, timeline: Timeline, tokens: int, duration_s: float) -> None:
        self._timeline = timeline
        self._begun_at = timeline.now()
        self._tokens = tokens
        self._duration_s = duration_s

    async def reach(self, tokens: int) -> None:
        part = tokens / self._tokens if self._tokens else 1.0
        await self._timeline.sleep(self._begun_at + part * self._duration_s - self._timeline.now())

    def reached(self) -> int:
        elapsed_s = self._timeline.now() - self._begun_at
        return int(self._tokens * min(1.0, elapsed_s / self._duration_s)) if self._duration_s else self._tokens


class Pace:
    """How fast prompts are read and answers generated, as the options say."""

    def __init__(self, timeline: Timeline, options: Options) -> None:
        self._timeline = timeline
        self._options = options
        self._random = random.Random(options.seed)  # noqa: S311 - call times, no secrets
        self._prefill = Meter(timeline, options.prefill_tokens_per_s) if options.prefill_tokens_per_s else None
        self._meter = Meter(timeline, options.tokens_per_s) if options.tokens_per_s else None

    async def read(self, prompt_tokens: int) -> None:
        """Return when a prompt of that length has been read."""
        if self._prefill is not None:
            with self._prefill.join() as share:
                await share.reach(prompt_tokens)

    @contextmanager
    def generate(self, tokens: int) -> Iterator[Share]:
        """The generation of an answer of `tokens`, running until the context ends."""
        if self._meter is None:
            yield _TimedShare(self._timeline, tokens, self._call_time_s())
            return
        with self._meter.join() as share:
            yield share

    def _call_time_s(self) -> float:
        mean_s, variation = self._options.call_seconds or 0.0, self._options.call_seconds_cv
        if not mean_s or not variation:
            return mean_s
        # A log-normal of that mean and coefficient of variation has these parameters, by its moments.
        sigma = math.sqrt(math.log1p(variation**2))
        return self._random.lognormvariate(math.log(mean_s) - sigma**2 / 2, sigma)
