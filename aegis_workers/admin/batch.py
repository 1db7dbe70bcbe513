"""A job as the object that clients of OpenAI's batches know."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, Field

from aegis_workers.admin import result_files
from aegis_workers.admin.result_files import Counts
from aegis_workers.jobs.journal import Entry, State
from aegis_workers.jobs.manifest import Kind
from aegis_workers.jobs.view import View
from aegis_workers.state.job_totals import Totals


class Endpoint(StrEnum):
    """What the lines of a batch are: requests of OpenAI's, or texts to extract from."""

    COMPLETIONS = "/v1/chat/completions"
    EXTRACTIONS = "/v1/extractions"


ENDPOINTS: Mapping[Kind, Endpoint] = {Kind.EXTRACTION: Endpoint.EXTRACTIONS, Kind.COMPLETIONS: Endpoint.COMPLETIONS}


class BatchStatus(StrEnum):
    """OpenAI's states of a batch."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class RequestCounts(BaseModel):
    """Items of the batch, and how many of them have a line in the output and in the error file."""

    total: int
    completed: int
    failed: int


class InputTokens(BaseModel):
    """Part of `Usage`."""

    cached_tokens: int = 0


class OutputTokens(BaseModel):
    """Part of `Usage`."""

    reasoning_tokens: int = 0


class Usage(BaseModel):
    """Tokens by the engines' own count; what they found in their caches or spent on reasoning is not counted apart."""

    input_tokens: int
    input_tokens_details: InputTokens = Field(default_factory=InputTokens)
    output_tokens: int
    output_tokens_details: OutputTokens = Field(default_factory=OutputTokens)
    total_tokens: int

    @classmethod
    def of(cls, totals: Totals) -> Self:
        """In OpenAI's words."""
        return cls(
            input_tokens=totals.prompt_tokens,
            output_tokens=totals.completion_tokens,
            total_tokens=totals.prompt_tokens + totals.completion_tokens,
        )


class BatchError(BaseModel):
    """Why a batch failed as a whole."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(BaseModel):
    """All reasons why a batch failed as a whole."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class Batch(BaseModel):
    """A job, as OpenAI describes a batch; what OpenAI has no word for is under `aegis`. Times are epoch seconds.

    A job that stopped early is `in_progress` here and `stopped` there, with the reason in `aegis.waits`.
    """

    id: str
    object: Literal["batch"] = "batch"
    endpoint: Endpoint
    errors: BatchErrors | None = None
    input_file_id: str = Field(description="Empty for a job that did not come over HTTP.")
    completion_window: str
    status: BatchStatus
    output_file_id: str | None = Field(description="The lines with an answer, from the first one on.")
    error_file_id: str | None = Field(description="The other lines, from the first one on.")
    created_at: int
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts
    usage: Usage
    metadata: dict[str, str] | None = None
    aegis: View

    @classmethod
    def of(cls, view: View) -> Self:
        """How a job stands."""
        manifest, counts = view.manifest, Counts.of(view)
        return cls(
            id=view.id,
            endpoint=ENDPOINTS[manifest.kind],
            errors=_errors(view.entries[-1]),
            input_file_id=manifest.input_file_id or "",
            completion_window=manifest.completion_window or f"{manifest.expires_at - manifest.created_at:.0f}s",
            status=_status(view.state),
            output_file_id=result_files.output_id(view.id) if counts.completed else None,
            error_file_id=result_files.errors_id(view.id) if counts.failed else None,
            created_at=int(manifest.created_at),
            expires_at=int(manifest.expires_at),
            request_counts=RequestCounts(total=counts.total, completed=counts.completed, failed=counts.failed),
            usage=Usage.of(view.totals),
            metadata=manifest.metadata or None,
            aegis=view,
            **_times(view),
        )


def _status(state: State) -> BatchStatus:
    return BatchStatus.IN_PROGRESS if state is State.STOPPED else BatchStatus(state)


def _times(view: View) -> dict[str, int]:
    """When it came into each state that it was in; the last time counts, but for `in_progress`, where the first one does."""
    times = {f"{_status(entry.state)}_at": int(entry.at) for entry in view.entries}
    first = next((entry for entry in view.entries if entry.state is State.IN_PROGRESS), None)
    return times if first is None else times | {"in_progress_at": int(first.at)}


def _errors(last: Entry) -> BatchErrors | None:
    if last.state is not State.FAILED:
        return None
    return BatchErrors(data=[BatchError(code="failed", message=last.reason or "no reason was given")])
