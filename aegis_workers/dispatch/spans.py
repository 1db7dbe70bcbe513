"""Chunks of texts, on their way from a bulk job's message to what is recorded of them."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from aegis_workers.dispatch import chunk_ends, reading, report
from aegis_workers.dispatch.calls import CallOutcome, Calls
from aegis_workers.dispatch.chunk_ends import ChunkEnd
from aegis_workers.dispatch.delivery import CallId
from aegis_workers.dispatch.inputs import ExtractionPlan
from aegis_workers.dispatch.reading import ChunkRead, Reading
from aegis_workers.errors import InvalidInput
from aegis_workers.extraction import schema as schemas
from aegis_workers.extraction.chunking import Chunk
from aegis_workers.outcome import Problem, Status
from aegis_workers.routing import TaskType
from aegis_workers.state.job_outcomes import Kind, Outcome


class Span(BaseModel):
    """A span of an item's text as it travels. `n`: its number in the job; `of`: how many chunks the item has."""

    model_config = ConfigDict(frozen=True)

    n: int = Field(ge=0)
    of: int = Field(ge=1)
    index: int = Field(ge=0)
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    text: str
    opens_mid_word: bool = False
    closes_mid_word: bool = False
    custom_id: str
    metadata: dict[str, Any] | None = None

    def chunk(self) -> Chunk:
        """The span as extraction knows it."""
        return Chunk(
            index=self.index,
            start=self.start,
            end=self.end,
            text=self.text,
            opens_mid_word=self.opens_mid_word,
            closes_mid_word=self.closes_mid_word,
        )


@dataclass(frozen=True, kw_only=True)
class SpanChunk:
    """A span, and how it is to be read: the same for all of its batch, or why that cannot be. Satisfies `JobChunk`."""

    span: Span
    plan: ExtractionPlan | InvalidInput

    @property
    def number(self) -> int:
        """See `JobChunk`."""
        return self.span.n

    async def read(self, calls: Calls, call_id: CallId) -> ChunkEnd:
        """See `JobChunk`."""
        if isinstance(self.plan, InvalidInput):
            raise self.plan
        read = Reading(self.span.chunk(), self.plan)
        outcome = await calls.run(TaskType.EXTRACTION, call_id, read.request(), read.judge, may_reask=True)
        return self._end(read.read(outcome), outcome)

    def unread(self, status: Status, problem: Problem) -> ChunkEnd:
        """See `JobChunk`."""
        return self._end(reading.unread(self.span.chunk(), status, problem), None)

    def _end(self, read: ChunkRead, outcome: CallOutcome | None) -> ChunkEnd:
        """A whole line where the span is all of its item, else a piece of one."""
        totals = chunk_ends.totals(outcome)
        if self.span.of == 1:
            found = report.line(self.span, report.result([read], self._schema()))
            recorded = chunk_ends.line(self.number, Status(found["status"]), found, totals)
        else:
            recorded = Outcome(
                chunk=self.number, kind=Kind.PIECE, status=read.result.status, body=report.encode_piece(read), totals=totals
            )
        return ChunkEnd(outcome=recorded, problem=read.result.problem)

    def _schema(self) -> schemas.Schema:
        return schemas.compile(None) if isinstance(self.plan, InvalidInput) else self.plan.schema
