"""Ends a worker that cannot consume: its supervisor starts a new one. Else it would look alive and do nothing.

Either its main loop hangs: no message would be taken or acknowledged, and one that Redis has sent already would stay where it is.
Or the loop turns, and takes nothing although there is something to take.
"""

import asyncio
import time
from typing import Protocol

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from aegis_workers.worker import ending
from aegis_workers.worker.signs import Signs

log = structlog.get_logger(__name__)

LOOK_S = 2.0
_LOOKS_A_LIMIT = 5
# What takes so many times longer than a look was frozen in it, and Celery's side with it.
_OVERSLEPT = 3


class Consumer(Protocol):
    """Celery's side of the process."""

    @property
    def queues(self) -> tuple[str, ...]:
        """What it consumes from now."""

    def signs(self, *, queued: int | None, answering_since: float | None) -> Signs:
        """What the process shows now, beside what Redis said."""


def starving_since(since: float | None, before: Signs | None, now: Signs) -> float | None:
    """Since when a worker has taken nothing from a queue that was never found empty, though nothing kept it from that.

    None while it does not starve: Redis does not answer or gives no messages, none is there, it has one, or it is stopping.
    """
    if not now.queued or now.refused or now.held or now.stopping:
        return None
    if since is None or before is None or (before.taken, before.answering_since) != (now.taken, now.answering_since):
        return now.at
    return since


class Watchdog:
    """Looks at the queues every few seconds, and ends the worker when it has starved or hung for `limit_s` seconds."""

    def __init__(self, client: redis.asyncio.Redis, consumer: Consumer, *, limit_s: float, grace_s: float) -> None:
        self._client = client
        self._consumer = consumer
        self._limit_s = limit_s
        self._grace_s = grace_s
        self._look_s = min(LOOK_S, limit_s / _LOOKS_A_LIMIT)
        self.queued: int | None = None
        self.answering_since: float | None = None

    async def run(self) -> None:
        """Looks until cancelled, or until it has ended the worker."""
        since, before, slept_s = None, None, 0.0
        while True:
            now = await self._look(slept_s)
            since, before = starving_since(since, before, now), now
            reason = self._reason(now, since)
            if reason is not None:
                log.critical("worker.stuck", reason=f"{reason}: it ends, so that its supervisor starts a new one")
                ending.end(within_s=ending.MARGIN_S + (self._grace_s if now.held else 0.0))
                return
            slept_s = await self._sleep()

    def _reason(self, now: Signs, since: float | None) -> str | None:
        """Why this worker must end, in words; None where it need not."""
        if now.hangs(self._limit_s):
            return f"its main loop has not turned for {now.stalled_s:.0f} s although Redis answers"
        if since is not None and now.at - since >= self._limit_s:
            queues = ", ".join(now.queues)
            return f"it has taken nothing for {now.at - since:.0f} s although {queues} holds {now.queued} and nothing runs here"
        return None

    async def _look(self, slept_s: float) -> Signs:
        """What can be seen now. A pause, of Redis or of this process, counts as silence of Redis: all begins anew after it."""
        began = time.monotonic()
        try:
            self.queued = sum([await self._client.llen(queue) for queue in self._consumer.queues])
        except (RedisError, OSError):
            self.queued = self.answering_since = None
        else:
            now = time.monotonic()
            paused = max(slept_s, now - began) > _OVERSLEPT * self._look_s
            self.answering_since = now if paused or self.answering_since is None else self.answering_since
        return self._consumer.signs(queued=self.queued, answering_since=self.answering_since)

    async def _sleep(self) -> float:
        """How long it really slept, in seconds."""
        began = time.monotonic()
        await asyncio.sleep(self._look_s)
        return time.monotonic() - began
