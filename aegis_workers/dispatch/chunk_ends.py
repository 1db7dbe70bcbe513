"""What a chunk of a bulk job comes to, whatever kind of job it is of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aegis_workers.dispatch import report
from aegis_workers.dispatch.calls import CallOutcome, Calls
from aegis_workers.dispatch.delivery import CallId
from aegis_workers.outcome import Problem, Status
from aegis_workers.state.job_outcomes import Kind, Outcome
from aegis_workers.state.job_totals import Totals


@dataclass(frozen=True, kw_only=True)
class ChunkEnd:
    """How a chunk ended: the outcome that is recorded, and the problem that it tells of."""

    outcome: Outcome
    problem: Problem | None


class JobChunk(Protocol):
    """A chunk on its way to its end. `number` counts through the job."""

    @property
    def number(self) -> int: ...

    async def read(self, calls: Calls, call_id: CallId) -> ChunkEnd:
        """Its end after its call; raises what `Calls.run` raises, and `InvalidInput` where it cannot be asked for."""
        ...

    def unread(self, status: Status, problem: Problem) -> ChunkEnd:
        """Its end where no engine had it."""
        ...


def line(number: int, status: Status, body: Mapping[str, Any], totals: Totals) -> Outcome:
    """The outcome of an item that is one chunk: its result line."""
    return Outcome(chunk=number, kind=Kind.LINE, status=status, body=report.encode(body), totals=totals)


def totals(outcome: CallOutcome | None) -> Totals:
    """What the call of a chunk has cost; nothing where there was none. All of its time counts for the engine that it ended on."""
    if outcome is None:
        return Totals()
    answer, engine = outcome.completion, outcome.engine.value
    return Totals(
        prompt_tokens=(answer and answer.prompt_tokens) or 0,
        completion_tokens=(answer and answer.completion_tokens) or 0,
        attempts=outcome.attempts,
        calls={engine: 1},
        engine_ms={engine: round(outcome.engine_s * 1000)},
    )
