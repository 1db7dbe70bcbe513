"""The time in which one controller leads: it holds the lock, and does a leader's work only while it has it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from redis.exceptions import RedisError

from aegis_workers import telemetry
from aegis_workers.state.leader import HOLD_EVERY_S, TTL_S, Leadership
from aegis_workers.telemetry import LeadershipChanged

log = structlog.get_logger(__name__)

_SAY_EVERY_S = 60.0
# What must be left to say so in, at the end.
_RELEASE_WITHIN_S = 2.0
# No token: nobody was asked yet, or what the last one was good for is over.
_UNKNOWN = -1


class Reign:
    """Holds the lock for as long as it can be had, and runs `work` under each token that it is given."""

    def __init__(self, leadership: Leadership, work: Callable[[int], Awaitable[None]]) -> None:
        self._leadership = leadership
        self._work = work
        self._token: int | None = _UNKNOWN
        self._working: asyncio.Task[None] | None = None
        self._held_at = -TTL_S
        self._said_at = float("-inf")

    @property
    def obstacle(self) -> str | None:
        """Why it neither leads nor stands by, in words; None where it does."""
        return "Redis does not answer" if time.monotonic() - self._held_at > TTL_S else None

    async def run(self) -> None:
        """Leads or stands by until cancelled; raises what the work dies of."""
        try:
            while True:
                await self._hold()
                await self._pause()
        finally:
            giving_up = asyncio.ensure_future(self._give_up())
            while not giving_up.done():  # who cancels again is as impatient as the next leader, who waits for the lock
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({giving_up})
            giving_up.result()

    async def _give_up(self) -> None:
        """Ends the work, then lets another lead at once."""
        await self._end()
        with suppress(RedisError, OSError, TimeoutError):  # the lock ends by itself
            async with asyncio.timeout(_RELEASE_WITHIN_S):
                await self._leadership.release()

    async def _hold(self) -> None:
        asked_at = time.monotonic()
        try:
            token = await self._leadership.hold()
        except (RedisError, OSError) as error:
            self._complain(error)
            if asked_at - self._held_at > TTL_S:  # another may lead by now
                await self._turn_to(None)
            return
        self._held_at = asked_at
        await self._turn_to(token)

    async def _turn_to(self, token: int | None) -> None:
        if token == self._token:
            return
        await self._end()
        self._token = token
        telemetry.tell(LeadershipChanged(leads=token is not None))
        if token is None:
            log.info("controller.stands_by")
            return
        log.info("controller.leads", token=token)
        self._working = asyncio.ensure_future(self._work(token))

    async def _pause(self) -> None:
        """Until the lock is to be held again; raises what the work died of meanwhile."""
        if self._working is None:
            await asyncio.sleep(HOLD_EVERY_S)
            return
        await asyncio.wait({self._working}, timeout=HOLD_EVERY_S)
        if self._working.done():
            self._working.result()
            self._working, self._token = None, _UNKNOWN

    async def _end(self) -> None:
        working, self._working = self._working, None
        if working is not None:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._said_at >= _SAY_EVERY_S:
            self._said_at = now
            log.warning("controller.waits_for_redis", error=repr(error))
