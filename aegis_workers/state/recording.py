"""What a worker asks and tells of the chunks of bulk jobs: which have an outcome, and what the others came to."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, Final

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from aegis_workers.state import connection, job_outcomes, job_scripts, keys
from aegis_workers.state.job_outcomes import Outcome
from aegis_workers.state.job_state import State

log = structlog.get_logger(__name__)

# Outcomes that come within this time are recorded together.
GATHER_S: Final = 0.05
# Of one script: it holds Redis up for a few milliseconds at most.
_OUTCOMES_AT_ONCE: Final = 256
_BYTES_AT_ONCE: Final = 1_000_000
_SAY_EVERY: Final = 15


class Recording(StrEnum):
    """What became of outcomes.

    `recorded`: each is the outcome of its chunk, or another was before. `gone`: Redis does not know the job: it has ended, or the
    leader will build it anew and feed the chunk again. `closing`: the job takes nothing in any more. `dead`: this worker was
    declared dead, and its messages are another's. After the first three the message is done with.
    """

    RECORDED = "recorded"
    GONE = "gone"
    CLOSING = "closing"
    DEAD = "dead"


_REFUSALS: Final = {-1: Recording.DEAD, -2: Recording.GONE, -3: Recording.CLOSING}


@dataclass(frozen=True, kw_only=True)
class BatchStart:
    """What a worker must know of a batch before it calls.

    `state`: None if Redis does not know the job. `engine`: the one to which the job keeps. `recorded`: those of its chunks that
    have an outcome. `known`: False for a batch that is finished, or that others have replaced: it needs no call.
    """

    state: State | None
    engine: str | None
    recorded: frozenset[int]
    known: bool


@dataclass(frozen=True, kw_only=True)
class _Report:
    job_id: str
    outcomes: Sequence[Outcome]
    finished: str
    answer: asyncio.Future[Recording]

    @property
    def size_bytes(self) -> int:
        return sum(len(outcome.body) for outcome in self.outcomes)


class Recorder:
    """This worker's way to the jobs; `run` records in the background what `record` is given. One event loop uses it."""

    def __init__(self, client: redis.asyncio.Redis, worker_id: str) -> None:
        self._client = client
        self._worker_id = worker_id
        self._begin = client.register_script(job_scripts.BEGIN_BATCH)
        self._record = client.register_script(job_scripts.RECORD)
        self._reports: deque[_Report] = deque()
        self._came = asyncio.Event()

    async def begin_batch(self, job_id: str, batch_id: str, chunks: Sequence[int]) -> BatchStart:
        """What to know of a batch that was delivered, for the first time or again. Raises `RedisError`."""
        names = [keys.job(job_id), keys.job_done(job_id), keys.job_batches(job_id)]
        state, engine, known, *bits = await self._begin(keys=names, args=[batch_id, *chunks])
        recorded = frozenset(chunk for chunk, bit in zip(chunks, bits, strict=True) if bit)
        return BatchStart(state=State(state) if state else None, engine=engine or None, recorded=recorded, known=bool(known))

    async def record(self, job_id: str, outcomes: Sequence[Outcome], *, finished: str = "") -> Recording:
        """Record outcomes of chunks of a job, in one step; returns when it is done, however long Redis is away or full.

        `finished`: the id of the batch that ends with them, or ends without any. What a cancelled caller gave is recorded all the
        same. Raises `RedisError` where Redis will never take it.
        """
        report = _Report(job_id=job_id, outcomes=outcomes, finished=finished, answer=asyncio.get_running_loop().create_future())
        self._reports.append(report)
        self._came.set()
        return await report.answer

    async def run(self) -> None:
        """Records until cancelled; whoever still waits then is cancelled too."""
        try:
            while True:
                await self._came.wait()
                await asyncio.sleep(GATHER_S)
                self._came.clear()
                while self._reports:
                    await self._write(_together(self._reports))
        finally:
            for report in self._reports:
                report.answer.cancel()

    async def _write(self, reports: Sequence[_Report]) -> None:
        """Records the reports, which are of one job, and takes them off the queue."""
        try:
            answer: Recording | RedisError = await self._send_some_time(reports)
        except RedisError as error:
            answer = error
        written = set(map(id, reports))
        self._reports = deque(report for report in self._reports if id(report) not in written)
        for report in reports:
            _tell(report.answer, answer)

    async def _send_some_time(self, reports: Sequence[_Report]) -> Recording:
        tries = 0
        while True:
            try:
                return await self._send(reports)
            except (RedisError, OSError) as error:
                if not connection.will_pass(error):
                    raise
                if tries % _SAY_EVERY == 0:
                    log.warning("outcomes.wait_for_redis", count=len(self._reports), error=type(error).__name__)
                tries += 1
                await asyncio.sleep(connection.RETRY_S)

    async def _send(self, reports: Sequence[_Report]) -> Recording:
        job_id = reports[0].job_id
        names = [keys.ALIVE, keys.job(job_id), keys.job_done(job_id), keys.job_outcomes(job_id), keys.job_batches(job_id)]
        finished = [report.finished for report in reports if report.finished]
        outcomes = chain.from_iterable(report.outcomes for report in reports)
        words = chain.from_iterable(job_outcomes.words(outcome) for outcome in outcomes)
        answer: Any = await self._record(keys=names, args=[self._worker_id, len(finished), *finished, *words])
        return _REFUSALS.get(int(answer), Recording.RECORDED)


def _together(reports: Iterable[_Report]) -> list[_Report]:
    """The first report, and those of the same job behind it that fit into one script with it."""
    return list(_fitting(iter(reports)))


def _fitting(reports: Iterator[_Report]) -> Iterator[_Report]:
    first = next(reports)
    yield first
    count, size_bytes = len(first.outcomes), first.size_bytes
    for report in reports:
        if report.job_id != first.job_id:
            continue
        count, size_bytes = count + len(report.outcomes), size_bytes + report.size_bytes
        if count > _OUTCOMES_AT_ONCE or size_bytes > _BYTES_AT_ONCE:
            return
        yield report


def _tell(answer: asyncio.Future[Recording], told: Recording | RedisError) -> None:
    if answer.done():
        return  # its caller was cancelled
    if isinstance(told, RedisError):
        answer.set_exception(told)
    else:
        answer.set_result(told)
