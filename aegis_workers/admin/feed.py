"""What listeners are told: the overview whenever it has changed. One look for all of them, and none while nobody listens."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

import anyio
import anyio.to_thread
import structlog
from pydantic import BaseModel, TypeAdapter

from aegis_workers.admin.reach import Reach
from aegis_workers.errors import AegisError
from aegis_workers.jobs.desk import Desk
from aegis_workers.origins import Setting
from aegis_workers.overview import whole
from aegis_workers.overview.whole import JobPart, Overview
from aegis_workers.settings import Settings

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 0.25
# Jobs are read from the disk.
_JOBS_EVERY_S: Final = 1.0
SAY_EVERY_S: Final = 10.0
BEAT_EVERY_S: Final = 5.0
BEAT: Final = b": beat\n\n"
_OVERVIEW: Final = TypeAdapter(Overview)


class Problem(BaseModel):
    """Why there is no overview now."""

    message: str


class Feed:
    """The events of one server. Every method but the look itself runs on its event loop."""

    def __init__(self, settings: Settings, chosen: Mapping[str, Setting], reach: Reach, desk: Desk) -> None:
        self._take = partial(whole.take, settings=settings, chosen=chosen, find_jobs=self._find_jobs)
        self._reach = reach
        self._desk = desk
        self._jobs, self._jobs_at = JobPart(rows=()), float("-inf")
        self._listeners = 0
        self._looking: asyncio.Task[None] | None = None
        self._event, self._number = b"", 0
        self._said: Overview | Problem | None = None
        self._said_at = float("-inf")
        self._changed = asyncio.Event()
        self._closed = False

    async def listen(self) -> AsyncIterator[bytes]:
        """Events as they go over the wire, until the feed is closed. Who is slow misses some, and gets the latest."""
        self._listeners += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_on(), name="feed")
        heard = 0
        try:
            while not self._closed:
                if self._number != heard and self._event:
                    heard = self._number
                    yield self._event
                elif not await self._has_changed():
                    yield BEAT
        finally:
            self._leave()

    def close(self) -> None:
        """Nobody is told any more; whoever listens comes to the end."""
        self._closed = True
        self._changed.set()

    def _leave(self) -> None:
        self._listeners -= 1
        if not self._listeners and self._looking is not None:
            self._looking.cancel()
            self._looking, self._event, self._said = None, b"", None

    async def _has_changed(self) -> bool:
        try:
            async with asyncio.timeout(BEAT_EVERY_S):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _look_on(self) -> None:
        alone = anyio.CapacityLimiter(1)  # threads that wait for Redis on behalf of others do not hold it up
        while True:
            begun = time.monotonic()
            self._tell(await anyio.to_thread.run_sync(self._look, limiter=alone))
            await asyncio.sleep(max(LOOK_EVERY_S / 5, begun + LOOK_EVERY_S - time.monotonic()))

    def _look(self) -> Overview | Problem:
        try:
            with self._reach.redis() as client:
                return self._take(client)
        except AegisError as error:
            return Problem(message=str(error))
        except Exception as error:  # noqa: BLE001 - whoever listens is told, and the next look may do
            log.error("overview.failed", error=repr(error))  # noqa: TRY400 - it may hold what an engine said
            return Problem(message=f"the server failed ({type(error).__name__}): its log says where")

    def _find_jobs(self) -> JobPart:
        if time.monotonic() - self._jobs_at >= _JOBS_EVERY_S:
            self._jobs = whole.newest_jobs(self._desk)
            self._jobs_at = time.monotonic()
        return self._jobs

    def _tell(self, found: Overview | Problem) -> None:
        now, lasting = time.monotonic(), _lasting(found)
        if lasting == self._said and now - self._said_at < SAY_EVERY_S:
            return
        self._said, self._said_at = lasting, now
        self._event, self._number = _encoded(found), self._number + 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _lasting(found: Overview | Problem) -> Overview | Problem:
    """Without what changes though nothing happens."""
    if isinstance(found, Problem):
        return found
    queues = [replace(queue, oldest_s=None) for queue in found.queues]
    workers = [replace(worker, seen_at=None) for worker in found.workers]
    return replace(found, now=0.0, queues=queues, workers=workers, jobs=[replace(job, left_s=None) for job in found.jobs])


def _encoded(found: Overview | Problem) -> bytes:
    if isinstance(found, Problem):
        return b"event: problem\ndata: " + found.model_dump_json().encode() + b"\n\n"
    return b"event: overview\ndata: " + _OVERVIEW.dump_json(found) + b"\n\n"
