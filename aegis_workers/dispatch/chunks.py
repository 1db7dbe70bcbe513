"""The chunks of bulk jobs that a worker has: each routed, admitted and recorded on its own."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar, assert_never

import structlog
from redis.exceptions import RedisError

from aegis_workers.dispatch.answers import AnswerStore
from aegis_workers.dispatch.batches import Batch
from aegis_workers.dispatch.calls import Calls
from aegis_workers.dispatch.chunk_ends import ChunkEnd, JobChunk
from aegis_workers.dispatch.concurrency import together
from aegis_workers.dispatch.delivery import Delivery
from aegis_workers.dispatch.report import DEADLINE
from aegis_workers.errors import (
    AegisError,
    ConfigurationError,
    DeadlineExceeded,
    ErrorClass,
    InvalidInput,
    SetAside,
    WorkerStopping,
)
from aegis_workers.outcome import Problem, Status
from aegis_workers.routing import Engine, TaskType
from aegis_workers.state import aside, connection
from aegis_workers.state.job_outcomes import Outcome
from aegis_workers.state.job_state import State
from aegis_workers.state.recording import BatchStart, Recording

log = structlog.get_logger(__name__)

T = TypeVar("T")


class OutcomeStore(Protocol):
    """Where chunks are recorded; `state.recording.Recorder` in a worker."""

    async def begin_batch(self, job_id: str, batch_id: str, chunks: Sequence[int]) -> BatchStart: ...

    async def record(self, job_id: str, outcomes: Sequence[Outcome], *, finished: str = "") -> Recording: ...


class _Dropped(Exception):
    """Nothing of the batch is recorded any more; why, in words."""


class _DeclaredDead(Exception):
    """Another worker has the batch by now."""


class Chunks:
    """Reads chunks through the calls of this process."""

    def __init__(self, calls: Calls, store: OutcomeStore, answers: AnswerStore) -> None:
        self._calls = calls
        self._store = store
        self._answers = answers

    async def read(self, batch: Batch, delivery: Delivery) -> dict[str, Any]:
        """Has every chunk recorded that is not yet; says how many were, and which are set aside.

        The message is done with when this returns. It goes back to its queue with what is left where this raises `PutBack`;
        `CallRevoked` is raised where the job was cancelled. No chunk fails another.
        """
        began = time.monotonic()
        try:
            work = await self._begun(batch, delivery)
            with structlog.contextvars.bound_contextvars(job=batch.job_id):
                await work.carry_out()
        except _Dropped as dropped:
            log.info("batch.dropped", job=batch.job_id, batch=delivery.task_id, reason=str(dropped))
            return {"recorded": 0, "set_aside": []}
        except _DeclaredDead:
            raise WorkerStopping("this worker was declared dead, and its messages are others'") from None
        log.info(
            "batch.finished",
            job=batch.job_id,
            batch=delivery.task_id,
            chunks=dict(work.ended),
            ms=round((time.monotonic() - began) * 1000),
        )
        return {"recorded": work.ended.total(), "chunks": dict(work.ended), "set_aside": work.set_aside}

    async def _begun(self, batch: Batch, delivery: Delivery) -> "_Work":
        numbers = [chunk.number for chunk in batch.chunks]
        start = await _some_time(lambda: self._store.begin_batch(batch.job_id, delivery.task_id, numbers))
        if why := _needs_nobody(start):
            raise _Dropped(why)
        only = Engine(start.engine) if start.engine else batch.engine
        work = _Work(self._calls, self._store, batch, replace(delivery, of_job=True, only=only))
        work.recorded = start.recorded
        if delivery.is_suspect:
            work.earlier = await _some_time(lambda: self._answers.earlier(delivery.task_id))
        return work


async def _some_time(ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The answer of a Redis that may be away; the worker's end, or the task's, ends the waiting."""
    while True:
        try:
            return await ask()
        except (RedisError, OSError) as error:
            if not connection.will_pass(error):
                raise
            await asyncio.sleep(connection.RETRY_S)


def _needs_nobody(start: BatchStart) -> str | None:
    """Why a batch is passed over, in words; None for one that is to be read."""
    match start.state:
        case None:
            return "Redis does not know the job"
        case State.CLOSING:
            return "the job takes no outcomes any more"
        case State.OPEN:
            return None if start.known else "it is finished, or fed again under another name"
        case _:
            assert_never(start.state)


class _Work:
    """A batch that is being read. `earlier`: which of its chunks killed a worker once too often."""

    def __init__(self, calls: Calls, store: OutcomeStore, batch: Batch, delivery: Delivery) -> None:
        self._calls = calls
        self._store = store
        self._batch = batch
        self._delivery = delivery
        self._left = 0
        self.recorded: frozenset[int] = frozenset()
        self.earlier: Mapping[str, str] = {}
        self.ended: Counter[str] = Counter()
        self.set_aside: list[dict[str, Any]] = []

    async def carry_out(self) -> None:
        """Returns when every chunk is recorded, and the batch is known to be finished."""
        rest = [(place, chunk) for place, chunk in enumerate(self._batch.chunks) if chunk.number not in self.recorded]
        self._left = len(rest)
        if not rest:
            await self._record([], finished=self._delivery.task_id)
        await together(self._carry_out(place, chunk) for place, chunk in rest)

    async def _carry_out(self, place: int, chunk: JobChunk) -> None:
        with structlog.contextvars.bound_contextvars(item=place, chunk=chunk.number):
            end = await self._end(place, chunk)
        self._left -= 1
        if end.problem is not None and end.problem.error_class == ErrorClass.POISON:
            self.set_aside.append({"item": place, "message": end.problem.message})
        # Who is recorded in one step with the last one, or before it, is in Redis when the batch is finished.
        await self._record([end.outcome], finished="" if self._left else self._delivery.task_id)
        self.ended[end.outcome.status.value] += 1

    async def _end(self, place: int, chunk: JobChunk) -> ChunkEnd:
        try:
            return await self._read(place, chunk)
        except SetAside as error:
            return chunk.unread(Status.FAILED, Problem(error_class=ErrorClass.POISON, message=str(error)))
        except (InvalidInput, ConfigurationError) as error:
            return chunk.unread(Status.FAILED, Problem(error_class=ErrorClass.ITEM_FATAL, message=str(error)))
        except DeadlineExceeded as error:
            return chunk.unread(Status.EXPIRED, Problem(error_class=DEADLINE, message=f"the job expired: {error}"))
        except AegisError:
            raise
        except Exception as error:
            # It would be fed again, and fail again, for as long as the job lives.
            log.exception("chunk.failed")
            told = (
                f"it cannot be read here, which is a fault of aegis-workers ({type(error).__name__}); the worker's log has more"
            )
            return chunk.unread(Status.FAILED, Problem(error_class=ErrorClass.ITEM_FATAL, message=told))

    async def _read(self, place: int, chunk: JobChunk) -> ChunkEnd:
        if (reason := self.earlier.get(aside.mark(place))) is not None:
            raise SetAside(reason)
        left_s, delivery = self._batch.expires_at - time.time(), self._delivery
        if left_s <= 0:
            raise DeadlineExceeded("no worker had come to it")
        async with self._calls.within(left_s, TaskType.EXTRACTION, delivery.only), self._calls.item(delivery, place):
            return await chunk.read(self._calls, delivery.call(str(place)))

    async def _record(self, outcomes: Sequence[Outcome], finished: str) -> None:
        match recording := await self._store.record(self._batch.job_id, outcomes, finished=finished):
            case Recording.RECORDED:
                return
            case Recording.GONE:
                raise _Dropped("Redis does not know the job any more")
            case Recording.CLOSING:
                raise _Dropped("the job takes no outcomes any more")
            case Recording.DEAD:
                raise _DeclaredDead
            case _:
                assert_never(recording)
