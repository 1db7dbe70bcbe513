"""One look a second: this worker lives, who of the others does not, and what the dead held goes back to its queue.

Each worker looks at all others, so that the last one alive is enough; one script of Redis decides who is dead, and one for each
message moves it, so that a reaper which dies in the middle leaves the rest to the next.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from aegis_workers import telemetry
from aegis_workers.state import envelope, held, liveness
from aegis_workers.state.envelope import Death
from aegis_workers.state.held import End, Holder, Settled, Settlement
from aegis_workers.state.liveness import Look
from aegis_workers.telemetry import MessagesReturned, WorkerDied
from aegis_workers.worker.holdings import LOOK_EVERY_S, Holdings
from aegis_workers.worker.repetition import Repetition
from aegis_workers.worker.witness import Witness

log = structlog.get_logger(__name__)

# What Redis or its absence raises; a full Redis refuses too.
_REFUSALS = (RedisError, OSError)


async def _nothing(*_: str) -> None:
    """For a reaper whose dead held nothing but messages."""


async def _another_delivery(raw: bytes, death: Death) -> Settlement:
    """What becomes of any message where nothing kills workers."""
    return Settlement(raw=raw, end=End.FRONT, again=envelope.again(raw, death))


@dataclass(frozen=True, kw_only=True)
class Duties:
    """What others have a reaper do.

    `declared_dead` is called when this worker finds out that others took it for dead, `on_death` for each that it declared dead,
    and `while_watching` every few seconds in which Redis did not pause, so that what has expired was left by its owner. `verdict`
    says what becomes of each message of a dead worker.
    """

    declared_dead: Callable[[], None]
    verdict: Callable[[bytes, Death], Awaitable[Settlement]] = _another_delivery
    on_death: Callable[[str], Awaitable[None]] = _nothing
    while_watching: Callable[[], Awaitable[None]] = _nothing


class Reaper:
    """Says that this worker lives, and puts back what dead workers held."""

    def __init__(self, client: redis.asyncio.Redis, holdings: Holdings, duties: Duties) -> None:
        self._client = client
        self._holdings = holdings
        self._holder = holdings.holder
        self._duties = duties
        self._witness = Witness()
        self._reaping = asyncio.Lock()

    async def run(self) -> None:
        """Lives until cancelled, or until it was declared dead."""
        await self._enlist()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_after_own())
            while not self._holdings.fenced:
                began = time.monotonic()
                await self._look(group)
                await asyncio.sleep(max(0.0, began + liveness.LOOK_EVERY_S - time.monotonic()))

    async def _enlist(self) -> None:
        refused = Repetition()
        while True:
            asked_at = time.monotonic()
            try:
                await liveness.enlist(self._client, self._holder)
            except _REFUSALS as error:
                if refused.is_due():
                    log.warning("worker.not_enlisted", error=repr(error), reason="nobody would know that it holds messages")
                await asyncio.sleep(liveness.LOOK_EVERY_S)
            else:
                self._holdings.lived(asked_at)
                self._holdings.open()
                return

    async def _look(self, group: asyncio.TaskGroup) -> None:
        asked_at = time.monotonic()
        judges_since = self._witness.judges_since(asked_at)
        try:
            seen = await liveness.look(self._client, self._holder, judged_since_ms=judges_since)
        except _REFUSALS as error:
            self._witness.doubts()
            self._holdings.note_refusal()
            log.debug("worker.look_skipped", error=repr(error))
            return
        if not seen.lives:
            log.critical("worker.declared_dead", reason="it was silent for too long: frozen, cut off, or Redis was emptied")
            self._holdings.fence()
            self._duties.declared_dead()
            return
        self._holdings.lived(asked_at)
        self._note(seen)
        for worker_id in seen.dead:
            log.warning("worker.died", worker=worker_id)
            telemetry.tell(WorkerDied())
            group.create_task(self._tell_of_death(worker_id))
        if seen.left and not self._reaping.locked():
            group.create_task(self._reap(seen))

    def _note(self, seen: Look) -> None:
        if not seen.in_time:
            self._witness.doubts()
        self._witness.saw(time.monotonic(), seen.now_ms)

    async def _tell_of_death(self, worker_id: str) -> None:
        try:
            await self._duties.on_death(worker_id)
        except _REFUSALS as error:
            log.warning("worker.death_not_told", worker=worker_id, error=repr(error))

    async def _reap(self, seen: Look) -> None:
        try:
            async with self._reaping:
                for worker_id in seen.left:
                    await self._put_back(worker_id, seen.now_ms)
        except _REFUSALS as error:
            log.warning("messages.left", error=repr(error), reason="a later look puts them back")

    async def _put_back(self, worker_id: str, now_ms: int) -> None:
        """What a dead worker held goes to the front of its queue, and the dead one is forgotten."""
        queue = await liveness.queue_of(self._client, worker_id)
        if queue is None:
            return
        holder, death, returned = Holder(worker_id=worker_id, queue=queue), Death(worker=worker_id, at=now_ms / 1000), 0
        while (raw := await held.bury_dead(self._client, holder)) is not None:
            settlement = await self._duties.verdict(raw, death)
            settled = await held.settle_for_dead(self._client, holder, settlement)
            if settled is Settled.FENCED:
                return
            if settled is Settled.DONE:
                # Told of one by one: where Redis goes away between two of them, those before were put back all the same.
                telemetry.tell(MessagesReturned(messages=1))
                returned += 1
        log.warning("messages.put_back", count=returned, worker=worker_id, reason="their worker died")

    async def _look_after_own(self) -> None:
        """What this process holds and nobody in it works on; and what producers enqueued with a priority."""
        beats = 0
        while not self._holdings.fenced:
            await asyncio.sleep(liveness.LOOK_EVERY_S)
            beats += 1
            try:
                await asyncio.to_thread(self._holdings.tidy_queue)
                if beats % int(LOOK_EVERY_S / liveness.LOOK_EVERY_S) == 0:
                    await asyncio.to_thread(self._holdings.look)
                    if self._witness.judges_since(time.monotonic()) is not None:
                        await self._duties.while_watching()
            except _REFUSALS as error:
                log.debug("holdings.look_skipped", error=repr(error))
