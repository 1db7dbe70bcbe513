"""A value of Redis that this process remembers for a bounded time, and forgets at once when told."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio
from redis.exceptions import RedisError

T = TypeVar("T")

# How soon a value is asked for again after Redis did not answer; until then the last known one is served.
_RETRY_AFTER_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Reading(Generic[T]):
    """A value and where it stands: `stale` means that Redis did not answer and this is the last known one."""

    value: T
    stale: bool = False


class Cached(Generic[T]):
    """Serves the last answer of `fetch` for `max_age_s`; `drop` makes the next read ask again.

    An answer that was under way when `drop` came is used by the readers that wait for it, but not kept: it may be older than
    the change that `drop` told of.
    """

    def __init__(
        self, fetch: Callable[[], Awaitable[T]], initial: T, *, max_age_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._max_age_s = max_age_s
        self._clock = clock
        self._reading = Reading(value=initial, stale=True)
        self._fresh_until = -1.0
        self._generation = 0
        self._answered_at: float | None = None
        self._fetching = anyio.Lock()

    def drop(self) -> None:
        """Forget: the next read asks Redis."""
        self._generation += 1
        self._fresh_until = -1.0

    @property
    def last(self) -> Reading[T]:
        """What is remembered, however old."""
        return self._reading

    @property
    def age_s(self) -> float | None:
        """How long ago the answer that is remembered was asked for; None where there was none yet."""
        return None if self._answered_at is None else self._clock() - self._answered_at

    @property
    def fresh(self) -> bool:
        """Whether `last` may be used without asking."""
        return self._clock() < self._fresh_until

    async def read(self) -> Reading[T]:
        """The value, from memory where it is fresh. Never raises for a Redis that is away: the last known value is `stale`."""
        if self.fresh:
            return self._reading
        async with self._fetching:
            return await self._ask_unless_fresh()

    async def _ask_unless_fresh(self) -> Reading[T]:
        if self.fresh:  # another reader asked while this one waited for its turn
            return self._reading
        generation, asked_at = self._generation, self._clock()
        try:
            # It may be as old as the question. A failure counts from its end: it can take longer than its own time.
            reading, fresh_until = Reading(value=await self._fetch()), asked_at + self._max_age_s
        except (RedisError, OSError):
            reading, fresh_until = Reading(value=self._reading.value, stale=True), self._clock() + _RETRY_AFTER_S
        if generation == self._generation:
            self._answered_at = self._answered_at if reading.stale else asked_at
            self._fresh_until = fresh_until
            self._reading = reading
        return reading
