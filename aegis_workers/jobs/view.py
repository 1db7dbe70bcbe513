"""How a job stands, in one form for a terminal, for programs and for HTTP."""

import time
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from aegis_workers.jobs.journal import Entry, State
from aegis_workers.jobs.manifest import Manifest
from aegis_workers.outcome import Status
from aegis_workers.state.job_totals import Totals

# Complete answers. Every other line is worth a retry.
COMPLETE = frozenset({Status.OK, Status.EMPTY})


class CommonError(BaseModel):
    """An error that `count` of the newest failed lines ended with. `message` may be what an engine said."""

    model_config = ConfigDict(frozen=True)

    message: str
    count: int


class View(BaseModel):
    """A job at the moment `at`, epoch seconds. `entries` are its journal's.

    `items` counts the lines that are among the results, by status, and `chunks_done` the calls whose outcomes are; `totals` is
    what these took. `in_flight` chunks are with workers or in the queue before them; None where Redis does not say. The rates are
    those of the last minute, or of the job's whole time once it has ended; None before its first line. `engine`: the one that the
    job stays on. `waits`: why nothing moves, in words; None where nothing is in the way. `errors`: the most common first.
    `retries`: the jobs that were made of its lines, the oldest first.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: float = Field(default_factory=time.time)
    manifest: Manifest
    entries: Sequence[Entry]
    items: Mapping[Status, int] = Field(default_factory=dict)
    totals: Totals = Field(default_factory=Totals)
    chunks_done: int = 0
    in_flight: int | None = None
    items_per_s: float | None = None
    tokens_per_s: float | None = None
    engine: str | None = None
    waits: str | None = None
    errors: Sequence[CommonError] = ()
    retries: Sequence[str] = ()

    @property
    def id(self) -> str:
        """The job's id."""
        return self.manifest.id

    @property
    def name(self) -> str:
        """What it is called: as its submitter said, or else its input."""
        return self.manifest.metadata.get("name") or self.manifest.input_name

    @property
    def state(self) -> State:
        """The state that holds now."""
        return self.entries[-1].state

    @property
    def done(self) -> int:
        """Items that have a line."""
        return sum(self.items.values())

    @property
    def failed(self) -> int:
        """Items whose line is no complete answer."""
        return sum(count for status, count in self.items.items() if status not in COMPLETE)

    @property
    def is_at_rest(self) -> bool:
        """Whether it has ended, or is stopped until somebody resumes it."""
        return self.state.is_terminal or self.state is State.STOPPED

    @property
    def ended_at(self) -> float | None:
        """When it ended, epoch seconds; None where it has not."""
        return self.entries[-1].at if self.state.is_terminal else None

    @property
    def remaining_s(self) -> float | None:
        """How long the rest takes at the present rate; None where that is not known, or nothing moves."""
        rate = self.items_per_s
        return (self.manifest.items - self.done) / rate if rate and not self.is_at_rest else None
