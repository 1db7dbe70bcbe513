"""Extraction of whole documents: chunks, one call each, merged into one result."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from aegis_workers.completion import Completion, CompletionRequest
from aegis_workers.dispatch import answers, inputs
from aegis_workers.dispatch.answers import AnswerStore
from aegis_workers.dispatch.calls import CallOutcome, Calls, Judge, failure
from aegis_workers.dispatch.delivery import Delivery
from aegis_workers.dispatch.inputs import BatchItem, ExtractionPlan
from aegis_workers.errors import ConfigurationError, DeadlineExceeded, ErrorClass, InvalidInput, SetAside, WaitedTooLong
from aegis_workers.extraction import chunking, document, merging, prompt
from aegis_workers.extraction.chunking import Chunk
from aegis_workers.extraction.merging import ChunkResult
from aegis_workers.outcome import Problem, Status
from aegis_workers.routing import TaskType
from aegis_workers.settings import Settings
from aegis_workers.state import aside

T = TypeVar("T")

# Cutting and merging a longer text takes over 20 ms, for which no other call of the process should stand still.
LONG_CHARS = 100_000

# What `engine` and `mode` of a result say when the mode was switched while the document was read; `calls` has each one's own.
MIXED = "mixed"


@dataclass(frozen=True, kw_only=True)
class _ChunkRead:
    chunk: Chunk
    outcome: CallOutcome
    result: ChunkResult


class Documents:
    """Reads documents through the calls of this process."""

    def __init__(self, calls: Calls, settings: Settings, answers: AnswerStore) -> None:
        self._calls = calls
        self._settings = settings
        self._answers = answers

    async def extract(self, text: str, plan: ExtractionPlan, deadline_s: float, delivery: Delivery) -> dict[str, Any]:
        """The result of one text. Raises `CallFailed` where no call was answered, `DeadlineExceeded` when time is up."""
        earlier = await self._earlier(delivery)
        async with self._calls.within(deadline_s, TaskType.EXTRACTION), self._calls.item(delivery):
            result = await self._read(text, plan, _Part(delivery=delivery, item=0, earlier=earlier))
        if result["status"] == Status.FAILED:
            raise failure(Problem(error_class=result["error"]["class"], message=result["error"]["message"]))
        return result

    async def extract_batch(
        self, items: Sequence[BatchItem], plan: ExtractionPlan, deadline_s: float, delivery: Delivery
    ) -> dict[str, Any]:
        """The result lines of a micro-batch, in the order of `items`: no item fails another."""
        earlier = await self._earlier(delivery)
        parts = (_Part(delivery=delivery, item=index, earlier=earlier, one_of_many=True) for index in range(len(items)))
        work = (self._line(item, plan, deadline_s, part) for item, part in zip(items, parts, strict=True))
        return {"results": await _together(work)}

    async def _earlier(self, delivery: Delivery) -> Mapping[str, str]:
        """What earlier deliveries came to. Where Redis cannot say, the calls wait for it too: asking again is all there is."""
        return await self._answers.earlier(delivery.task_id) if delivery.again else {}

    async def _line(self, item: BatchItem, plan: ExtractionPlan, deadline_s: float, part: "_Part") -> dict[str, Any]:
        try:
            part.check_not_set_aside()
            text = inputs.text(item.text, self._settings)
            async with self._calls.within(deadline_s, TaskType.EXTRACTION), self._calls.item(part.delivery, part.item):
                result = await self._read(text, plan, part)
        except SetAside as error:
            result = _unanswered(Status.FAILED, Problem(error_class=ErrorClass.POISON, message=str(error)))
        except (InvalidInput, ConfigurationError) as error:
            result = _unanswered(Status.FAILED, Problem(error_class=ErrorClass.ITEM_FATAL, message=str(error)))
        except DeadlineExceeded as error:
            result = _unanswered(Status.EXPIRED, Problem(error_class="deadline", message=str(error)))
        metadata = {} if item.metadata is None else {"metadata": item.metadata}
        return {"custom_id": item.custom_id, **result, **metadata}

    async def _read(self, text: str, plan: ExtractionPlan, part: "_Part") -> dict[str, Any]:
        split = partial(chunking.split, text, max_tokens=plan.chunk_tokens, overlap_tokens=plan.chunk_overlap_tokens)
        long = len(text) > LONG_CHARS
        chunks = await asyncio.to_thread(split) if long else split()
        kept = replace(part, one_of_many=part.one_of_many or len(chunks) > 1)
        reads = await _together(self._read_chunk(chunk, plan, kept, index) for index, chunk in enumerate(chunks))
        return await asyncio.to_thread(_result, reads, plan) if long else _result(reads, plan)

    async def _read_chunk(self, chunk: Chunk, plan: ExtractionPlan, part: "_Part", index: int) -> _ChunkRead:
        messages = prompt.messages(chunk.text, plan.schema, plan.instructions)
        request = CompletionRequest(messages=messages, schema=plan.schema.source, sampling=plan.sampling)
        judged: list[ChunkResult] = []

        def judge(completion: Completion) -> Status:
            judged.append(document.read(completion, chunk, plan.schema))
            return judged[-1].status

        outcome = self._earlier_outcome(part, index, judge)
        if outcome is None:
            call_id = part.delivery.call(part.call(index))
            outcome = await self._calls.run(TaskType.EXTRACTION, call_id, request, judge, may_reask=True)
            if part.one_of_many:
                self._answers.keep(part.delivery.task_id, part.call(index), answers.encode(outcome))
        failed = ChunkResult(chunk=chunk, status=outcome.status, data=None, problem=outcome.problem)
        return _ChunkRead(chunk=chunk, outcome=outcome, result=failed if outcome.completion is None else judged[-1])

    def _earlier_outcome(self, part: "_Part", index: int, judge: Judge) -> CallOutcome | None:
        text = part.earlier.get(part.call(index))
        if text is None:
            return None
        outcome = answers.decode(text)
        if outcome.completion is not None:
            judge(outcome.completion)
        return outcome


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A text of a task. `earlier`: what other deliveries of the task came to; `one_of_many`: the task has other calls too."""

    delivery: Delivery
    item: int
    earlier: Mapping[str, str]
    one_of_many: bool = False

    def call(self, chunk: int) -> str:
        """The number of the call that reads this chunk."""
        return f"{self.item}.{chunk}"

    def check_not_set_aside(self) -> None:
        """Raises `SetAside` for an item that killed its worker once too often."""
        reason = self.earlier.get(aside.mark(self.item))
        if reason is not None:
            raise SetAside(reason)


async def _together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order. The first failure cancels the rest and is raised as itself.

    Work that waited too long lets the rest come to its end first: what is in flight is not wasted, and is kept.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_patient(one)) for one in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    results: list[T] = []
    for task in tasks:
        result = task.result()
        if isinstance(result, WaitedTooLong):
            raise result
        results.append(result)
    return results


async def _patient(work: Coroutine[Any, Any, T]) -> T | WaitedTooLong:
    try:
        return await work
    except WaitedTooLong as error:
        return error


def _result(reads: Sequence[_ChunkRead], plan: ExtractionPlan) -> dict[str, Any]:
    merged = merging.merge([read.result for read in reads], plan.schema)
    outcomes = [read.outcome for read in reads]
    return {
        "status": merged.status.value,
        "data": merged.data,
        "error": _error(merged.problem),
        "engine": _common(outcome.engine for outcome in outcomes),
        "mode": _common(outcome.mode for outcome in outcomes),
        "attempts": sum(outcome.attempts for outcome in outcomes),
        "usage": _usage(outcomes),
        "calls": [_call(read) for read in reads],
    }


def _call(read: _ChunkRead) -> dict[str, Any]:
    return {
        "start": read.chunk.start,
        "end": read.chunk.end,
        "status": read.result.status.value,
        "error": _error(read.result.problem),
        "engine": read.outcome.engine.value,
        "mode": read.outcome.mode.value,
        "reason": read.outcome.reason,
        "attempts": read.outcome.attempts,
    }


def _unanswered(status: Status, problem: Problem) -> dict[str, Any]:
    return {
        "status": status.value,
        "data": None,
        "error": _error(problem),
        "engine": None,
        "mode": None,
        "attempts": 0,
        "usage": _usage([]),
        "calls": [],
    }


def _error(problem: Problem | None) -> dict[str, str] | None:
    return None if problem is None else {"class": str(problem.error_class), "message": problem.message}


def _common(values: Iterable[str]) -> str:
    names = Counter(str(value) for value in values)
    return next(iter(names)) if len(names) == 1 else MIXED


def _usage(outcomes: Sequence[CallOutcome]) -> dict[str, int]:
    """Tokens of the answers that were taken, by the engines' own count; what an engine did not count is missing from it."""
    answers = [outcome.completion for outcome in outcomes if outcome.completion is not None]
    return {
        "prompt_tokens": sum(answer.prompt_tokens or 0 for answer in answers),
        "completion_tokens": sum(answer.completion_tokens or 0 for answer in answers),
    }
