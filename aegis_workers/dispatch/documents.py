"""Extraction of whole documents: chunks, one call each, merged into one result."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from aegis_workers.dispatch import answers, inputs, report
from aegis_workers.dispatch.answers import AnswerStore
from aegis_workers.dispatch.calls import CallOutcome, Calls, Judge, failure
from aegis_workers.dispatch.concurrency import together
from aegis_workers.dispatch.delivery import Delivery
from aegis_workers.dispatch.inputs import BatchItem, ExtractionPlan
from aegis_workers.dispatch.reading import ChunkRead, Reading
from aegis_workers.errors import ConfigurationError, DeadlineExceeded, ErrorClass, InvalidInput, SetAside
from aegis_workers.extraction import chunking
from aegis_workers.extraction.chunking import Chunk
from aegis_workers.outcome import Problem, Status
from aegis_workers.routing import TaskType
from aegis_workers.settings import Settings
from aegis_workers.state import aside

# Cutting and merging a longer text takes over 20 ms, for which no other call of the process should stand still.
LONG_CHARS = 100_000


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
        return {"results": await together(work)}

    async def _earlier(self, delivery: Delivery) -> Mapping[str, str]:
        """What earlier deliveries came to. Where Redis cannot say, the calls wait for it too: asking again is all there is."""
        return await self._answers.earlier(delivery.task_id) if delivery.again else {}

    async def _line(self, item: BatchItem, plan: ExtractionPlan, deadline_s: float, part: "_Part") -> dict[str, Any]:
        structlog.contextvars.bind_contextvars(item=part.item)  # in a context of its own, which ends with it
        try:
            part.check_not_set_aside()
            text = inputs.text(item.text, self._settings)
            async with self._calls.within(deadline_s, TaskType.EXTRACTION), self._calls.item(part.delivery, part.item):
                result = await self._read(text, plan, part)
        except SetAside as error:
            result = report.unanswered(Status.FAILED, Problem(error_class=ErrorClass.POISON, message=str(error)))
        except (InvalidInput, ConfigurationError) as error:
            result = report.unanswered(Status.FAILED, Problem(error_class=ErrorClass.ITEM_FATAL, message=str(error)))
        except DeadlineExceeded as error:
            result = report.unanswered(Status.EXPIRED, Problem(error_class=report.DEADLINE, message=str(error)))
        return report.line(item, result)

    async def _read(self, text: str, plan: ExtractionPlan, part: "_Part") -> dict[str, Any]:
        split = partial(chunking.split, text, max_tokens=plan.chunk_tokens, overlap_tokens=plan.chunk_overlap_tokens)
        long = len(text) > LONG_CHARS
        chunks = await asyncio.to_thread(split) if long else split()
        kept = replace(part, one_of_many=part.one_of_many or len(chunks) > 1)
        reads = await together(self._read_chunk(chunk, plan, kept, index) for index, chunk in enumerate(chunks))
        return await asyncio.to_thread(report.result, reads, plan.schema) if long else report.result(reads, plan.schema)

    async def _read_chunk(self, chunk: Chunk, plan: ExtractionPlan, part: "_Part", index: int) -> ChunkRead:
        reading = Reading(chunk, plan)
        outcome = self._earlier_outcome(part, index, reading.judge)
        if outcome is None:
            call_id = part.delivery.call(part.call(index))
            outcome = await self._calls.run(TaskType.EXTRACTION, call_id, reading.request(), reading.judge, may_reask=True)
            if part.one_of_many:
                self._answers.keep(part.delivery.task_id, part.call(index), answers.encode(outcome))
        return reading.read(outcome)

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
