"""The message that brings a worker some chunks of a bulk job: internal, and read as what any stranger sends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from aegis_workers.dispatch import inputs
from aegis_workers.dispatch.chunk_ends import JobChunk
from aegis_workers.dispatch.inputs import MAX_BATCH_ITEMS, ExtractionPlan
from aegis_workers.dispatch.requests import Request, RequestChunk
from aegis_workers.dispatch.spans import Span, SpanChunk
from aegis_workers.errors import InvalidInput
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings


class BatchKind(StrEnum):
    """What the chunks are: spans of texts to extract from, or requests of OpenAI's chat completions."""

    EXTRACTION = "extraction"
    COMPLETIONS = "completions"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Chunks of one job. `engine`: the one that the job stays on; `expires_at`: when the job ends, in epoch seconds."""

    job_id: str
    engine: Engine | None
    expires_at: float
    chunks: Sequence[JobChunk]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)

    job: str = Field(min_length=1)
    kind: BatchKind
    engine: Engine | None = None
    expires_at: float = Field(allow_inf_nan=False)


class _Spans(_Message):
    chunks: tuple[Span, ...] = Field(min_length=1, max_length=MAX_BATCH_ITEMS)


class _Requests(_Message):
    chunks: tuple[Request, ...] = Field(min_length=1, max_length=MAX_BATCH_ITEMS)


def read(message: Mapping[str, Any], settings: Settings) -> Batch:
    """The chunks of a message. Raises `InvalidInput` for one that no feeder of this version writes.

    What the job's submitter wrote (schema, options, bodies) fails the chunks that it spoils, and not the batch.
    """
    head = inputs.parse(_Message, message, "message")
    return Batch(
        job_id=head.job, engine=head.engine, expires_at=head.expires_at, chunks=_chunks(head.kind, head.job, message, settings)
    )


def _chunks(kind: BatchKind, job_id: str, message: Mapping[str, Any], settings: Settings) -> Sequence[JobChunk]:
    if kind is BatchKind.COMPLETIONS:
        requests = inputs.parse(_Requests, message, "message").chunks
        return [RequestChunk(request=request, job_id=job_id, settings=settings) for request in requests]
    plan = _plan(message, settings)
    return [SpanChunk(span=span, plan=plan) for span in inputs.parse(_Spans, message, "message").chunks]


def _plan(message: Mapping[str, Any], settings: Settings) -> ExtractionPlan | InvalidInput:
    try:
        return inputs.extraction_plan(message.get("schema"), message.get("options"), settings)
    except InvalidInput as error:
        return error
