"""The desk of the host that has the jobs' folder."""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Self

from redis.exceptions import RedisError

from aegis_workers.errors import InvalidInput, NotPossible, UnknownJob
from aegis_workers.jobs import desks, disk, leftovers, results, sightings, submission
from aegis_workers.jobs.desk import FOLLOW_EVERY_S, LAST, MAX_LISTED, Page, Receipt, ResultLine
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.journal import Entry, Event, State
from aegis_workers.jobs.sources import Source
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms
from aegis_workers.jobs.view import View
from aegis_workers.outcome import Status
from aegis_workers.settings import Settings
from aegis_workers.state import connection, job_desk

_PREFIX = "job_"
# What a cancellation leaves as it is.
_ENDING = frozenset({State.CANCELLING, State.FINALIZING})


class LocalDesk:
    """Satisfies `Desk` with the spool of this host, and with Redis where it answers."""

    def __init__(self, settings: Settings, *, redis_within_s: float | None = None) -> None:
        """`redis_within_s` bounds each answer of Redis, where it is another bound than usual."""
        self._settings = settings
        self._spool = Spool(settings.data_dir)
        self._redis = connection.open_sync(settings, timeout_s=redis_within_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._redis.close()

    def submit(self, source: Source, terms: Terms) -> Receipt:
        """See `Desk`."""
        return desks.submit_here(self._settings, source, terms)

    def resolve(self, word: str) -> str:
        """See `Desk`."""
        ids = self._spool.ids()
        found = ids[-1:] if word == LAST else [each for each in ids if word and each.startswith((word, _PREFIX + word))]
        if not found:
            raise UnknownJob(f"there is no such job under {self._settings.data_dir}: `aegis-workers jobs` lists those there are")
        if len(found) > 1:
            raise UnknownJob(f"{len(found)} jobs begin like that: give more of the id")
        return found[0]

    def list(self, limit: int = 20, after: str | None = None) -> Page:
        """See `Desk`."""
        if not 1 <= limit <= MAX_LISTED:
            raise InvalidInput(f"from 1 to {MAX_LISTED} jobs can be listed at once")
        ids = [each for each in reversed(self._spool.ids()) if after is None or each < after]
        return Page(jobs=self._views(ids[:limit]), has_more=len(ids) > limit)

    def find(self, job_id: str) -> View:
        """See `Desk`."""
        self._spool.open(job_id)
        found = self._views([job_id])
        if not found:
            raise UnknownJob(f"job {job_id} was deleted meanwhile")
        return found[0]

    def cancel(self, job_id: str) -> View:
        """See `Desk`."""

        def decide(entries: Sequence[Entry]) -> Entry | None:
            ends = entries[-1].state in _ENDING
            return None if ends else Entry(event=Event.CANCELLING, state=State.CANCELLING)

        if self._spool.open(job_id).journal.change(decide).state is State.CANCELLING:
            with suppress(RedisError):  # the controller reads the journal, and does the same
                job_desk.hasten_end(self._redis, job_id)
        return self.find(job_id)

    def resume(self, job_id: str) -> View:
        """See `Desk`."""

        def decide(entries: Sequence[Entry]) -> Entry | None:
            if entries[-1].state is not State.STOPPED:
                raise NotPossible(f"job {job_id} is not stopped: it is {entries[-1].state}")
            return Entry(event=Event.RESUMED, state=State.IN_PROGRESS)

        last = self._spool.open(job_id).journal.change(decide)
        if last.state.is_terminal:
            raise NotPossible(f"job {job_id} has ended: it is {last.state}; `retry` makes a new job of what was not answered")
        return self.find(job_id)

    def retry(self, job_id: str, *, key: str | None = None) -> str:
        """See `Desk`."""
        parent = self._spool.open(job_id)
        with _alone(parent):
            running = self._running_retry(parent)
            if running is not None and key is not None and running.manifest.key == key:
                return running.id
            _refuse_retry(parent, running)
            try:
                retried = submission.retry(self._spool, parent, leftovers.numbers(self._spool, parent), key=key)
            except InvalidInput as error:
                raise NotPossible(str(error)) from None
        return retried.job.id

    def _running_retry(self, parent: JobFolder) -> JobFolder | None:
        children = (self._spool.open(each) for each in parent.children() if each in self._spool)
        return next((child for child in children if not child.journal.last().state.is_terminal), None)

    def delete(self, job_id: str) -> None:
        """See `Desk`."""
        state = self._spool.open(job_id).journal.last().state
        if not state.is_terminal:
            raise NotPossible(f"job {job_id} is {state}: cancel it first, then delete it")
        self._spool.delete(job_id)

    def lines(
        self, job_id: str, *, ordered: bool = False, follow: bool = False, offset: str | None = None
    ) -> Iterator[ResultLine]:
        """See `Desk`."""
        job = self._spool.open(job_id)
        read = results.ordered if ordered else results.lines
        while True:
            may_be_more = follow and not _is_at_rest(job)
            for line in read(self._spool, job, offset):
                offset = line.offset
                yield ResultLine(body=line.data, status=Status(line.status), offset=line.offset)
            if not may_be_more:
                return
            time.sleep(FOLLOW_EVERY_S)

    def _views(self, job_ids: Sequence[str]) -> Sequence[View]:
        """The views of those of these jobs that are there."""
        sighting = sightings.look(self._redis, self._settings, job_ids)
        found = []
        for job_id in job_ids:
            with suppress(UnknownJob):  # deleted meanwhile
                job = self._spool.open(job_id)
                found.append(sighting.view(job, [child for child in job.children() if child in self._spool]))
        return found


def _refuse_retry(parent: JobFolder, running: JobFolder | None) -> None:
    if not _is_at_rest(parent):
        raise NotPossible(f"job {parent.id} is {parent.journal.last().state}: wait until it has ended, or cancel it")
    if running is not None:
        raise NotPossible(f"job {parent.id} is being retried already, by {running.id}: wait until that has ended")


def _is_at_rest(job: JobFolder) -> bool:
    state = job.journal.last().state
    return state.is_terminal or state is State.STOPPED


@contextmanager
def _alone(job: JobFolder) -> Iterator[None]:
    """No other process is in this block with the same job."""
    with disk.explained(job.path):
        descriptor = os.open(job.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
