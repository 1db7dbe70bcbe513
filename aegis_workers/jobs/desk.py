"""What people and programs ask of jobs: one interface for the command line, for Python and for HTTP, whoever keeps the jobs.

`jobs.local.LocalDesk` answers from the data folder of this host, `jobs.remote.RemoteDesk` asks another host over HTTP. Nothing
here prints, waits for a controller, or needs Redis: what is asked is written to the journal, and Redis only makes it sooner.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from aegis_workers.jobs.manifest import Manifest
from aegis_workers.jobs.sources import Source
from aegis_workers.jobs.submission import Terms
from aegis_workers.jobs.view import View
from aegis_workers.outcome import Status

# What stands for the job that was submitted last.
LAST = "last"
# How many jobs are listed at once.
MAX_LISTED = 100
# How soon whoever follows the results looks for more.
FOLLOW_EVERY_S = 0.25
NO_CONTROLLER = "no controller is running: start `aegis-workers controller`"


@dataclass(frozen=True, kw_only=True)
class Page:
    """Jobs, the newest first. `has_more`: whether there are older ones; ask for those `after` the last one's id."""

    jobs: Sequence[View]
    has_more: bool


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A submission. `is_new` is False where its key stands for a job that was submitted before: `manifest` is of that one."""

    manifest: Manifest
    is_new: bool

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.manifest.id


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultLine:
    """One line of the results. `body`: JSON in UTF-8 without a line feed. `offset`: where reading goes on after this line."""

    body: bytes
    status: Status
    offset: str


class Desk(Protocol):
    """Every method may raise `SpoolUnavailable`, and over HTTP `AdminUnavailable`.

    One that takes a job's id raises `UnknownJob` where there is none of it. Methods may block on a disk or on the network, and
    may be called from several threads at once.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def submit(self, source: Source, terms: Terms) -> Receipt:
        """Submit a job; it survives everything once this returns. Raises `InvalidInput` and `SpoolFull`; then there is none."""

    def resolve(self, word: str) -> str:
        """The id of a job from itself, from its beginning (with or without `job_`) if no other begins so, or from `last`.

        Raises `UnknownJob` where there is none or more than one.
        """

    def list(self, limit: int = 20, after: str | None = None) -> Page:
        """Up to `limit` jobs (1 to 100), the newest first; those submitted before the job `after`, if it is given."""

    def find(self, job_id: str) -> View:
        """How the job stands. Without a controller no job moves: its view `waits` with `NO_CONTROLLER` then."""

    def cancel(self, job_id: str) -> View:
        """Have the job cancelled: calls in flight are closed, and every item without an outcome ends as `cancelled`.

        One that ends already, in whatever way, stays as it is. Returns how the job stands: `cancelling` until it has ended.
        """

    def resume(self, job_id: str) -> View:
        """Go on with a job that was stopped because too many of its items failed. Raises `NotPossible` for any other."""

    def retry(self, job_id: str, *, key: str | None = None) -> str:
        """The id of a new job with the items whose lines did not end `ok` or `empty`; its lines replace theirs in the results.

        Of a job that stopped, these are the items that have a line; it goes on with the others only by `resume`. Raises
        `NotPossible` for a job that runs or is being retried, and where there is nothing to retry. The same `key` twice is the
        same retry.
        """

    def delete(self, job_id: str) -> None:
        """Remove a job that has ended, with its inputs and results. Raises `NotPossible` for one that has not ended."""

    def lines(
        self, job_id: str, *, ordered: bool = False, follow: bool = False, offset: str | None = None
    ) -> Iterator[ResultLine]:
        """The results: those there are, as they were written, or `ordered` as the inputs were.

        With `follow` it goes on until the job has ended or stopped, waiting for more. `offset` is that of the last line read
        before. Where the job was retried, an item's line is the one of its latest retry that has one. Raises `InvalidInput` for
        an offset that was not given for this job in this order.
        """
