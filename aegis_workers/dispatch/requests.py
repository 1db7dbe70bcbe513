"""Requests of OpenAI's chat completions, on their way from a bulk job's message to what is recorded of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from aegis_workers.completion import Completion, Finish
from aegis_workers.dispatch import chunk_ends, openai_chat, report
from aegis_workers.dispatch.calls import CallOutcome, Calls
from aegis_workers.dispatch.chunk_ends import ChunkEnd
from aegis_workers.dispatch.delivery import CallId
from aegis_workers.errors import ErrorClass
from aegis_workers.extraction import parsing
from aegis_workers.extraction.schema import Schema
from aegis_workers.outcome import Problem, Status
from aegis_workers.routing import TaskType
from aegis_workers.settings import Settings

# OpenAI's own words for what ends a request from outside; any other problem has its status or its class for a code.
_CODES = {Status.EXPIRED: "batch_expired", Status.CANCELLED: "batch_cancelled", Status.INVALID: "invalid"}


class Request(BaseModel):
    """A request line as it travels. `n`: its number in the job."""

    model_config = ConfigDict(frozen=True)

    n: int = Field(ge=0)
    custom_id: str
    body: Any


@dataclass(frozen=True, kw_only=True)
class RequestChunk:
    """A request of a job. Satisfies `JobChunk`."""

    request: Request
    job_id: str
    settings: Settings

    @property
    def number(self) -> int:
        """See `JobChunk`."""
        return self.request.n

    async def read(self, calls: Calls, call_id: CallId) -> ChunkEnd:
        """See `JobChunk`."""
        asked = openai_chat.read(self.request.body, self.settings)
        judged = _Judged(asked.schema)
        may_reask = asked.schema is not None
        outcome = await calls.run(TaskType.EXTRACTION, call_id, asked.request, judged.judge, may_reask=may_reask)
        answer = outcome.completion
        if answer is None or outcome.status is Status.INVALID:
            return self._without_answer(outcome.status, outcome.problem or judged.problem, outcome)
        said = replace(answer, text=judged.text or answer.text)
        model = self.settings.model(outcome.engine) or ""
        found = openai_chat.answer_line(self.request.custom_id, self._name, model, said, _extras(outcome.status, outcome))
        return self._end(outcome.status, found, None, outcome)

    def unread(self, status: Status, problem: Problem) -> ChunkEnd:
        """See `JobChunk`."""
        return self._without_answer(status, problem, None)

    def _without_answer(self, status: Status, problem: Problem | None, outcome: CallOutcome | None) -> ChunkEnd:
        told = problem or Problem(error_class=ErrorClass.CONTENT, message="no reason was given")
        error = {"code": _CODES.get(status, str(told.error_class)), "message": told.message}
        found = openai_chat.error_line(self.request.custom_id, self._name, error, _extras(status, outcome))
        return self._end(status, found, told, outcome)

    def _end(self, status: Status, found: Mapping[str, Any], problem: Problem | None, outcome: CallOutcome | None) -> ChunkEnd:
        recorded = chunk_ends.line(self.number, status, found, chunk_ends.totals(outcome))
        return ChunkEnd(outcome=recorded, problem=problem)

    @property
    def _name(self) -> str:
        """The same whichever worker has it, so that a line which is made again is the same line."""
        return f"{self.job_id.removeprefix('job_')}{self.number:08x}"


class _Judged:
    """What an answer is worth. `problem`: why the last one breaks its schema; `text`: what of it follows that, as JSON."""

    def __init__(self, schema: Schema | None) -> None:
        self._schema = schema
        self.problem: Problem | None = None
        self.text: str | None = None

    def judge(self, completion: Completion) -> Status:
        self.problem = self.text = None
        if completion.finish is Finish.LENGTH:
            return Status.TRUNCATED
        if self._schema is None:
            return Status.OK if completion.text.strip() else Status.EMPTY
        parsed = parsing.parse(completion.text, self._schema)
        if isinstance(parsed, parsing.Unreadable):
            self.problem = Problem(error_class=ErrorClass.CONTENT, message=parsed.problem)
            return Status.INVALID
        self.text = report.encode_text(parsed.data)
        return Status.OK


def _extras(status: Status, outcome: CallOutcome | None) -> dict[str, Any]:
    """What OpenAI's form has no place for."""
    if outcome is None:
        return {"status": status.value, "engine": None, "mode": None, "reason": "", "attempts": 0}
    return {
        "status": status.value,
        "engine": outcome.engine.value,
        "mode": outcome.mode.value,
        "reason": outcome.reason,
        "attempts": outcome.attempts,
    }
