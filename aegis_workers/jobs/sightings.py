"""What is to be seen of jobs at one moment: in Redis, in one look for all of them, and on the disk."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.exceptions import RedisError

from aegis_workers.jobs import complaints, disk, pace, part
from aegis_workers.jobs.desk import NO_CONTROLLER
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.journal import Entry, Event, State
from aegis_workers.jobs.part import Part
from aegis_workers.jobs.parts import Parts
from aegis_workers.jobs.view import COMPLETE, View
from aegis_workers.outcome import Status
from aegis_workers.settings import Settings
from aegis_workers.state import connection, job_desk, job_state, job_totals
from aegis_workers.state.job_state import JobState
from aegis_workers.state.job_totals import Totals

# A part is written every second or so: these are at least those of the last minute.
_NEWEST = 100


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """`states`: the jobs that Redis knows. `waits`: what holds back every job, in words; None where nothing does."""

    states: Mapping[str, JobState] = field(default_factory=dict)
    waits: str | None = None

    def view(self, job: JobFolder, retries: Sequence[str]) -> View:
        """How a job stands. Raises `SpoolUnavailable`."""
        entries, state, parts = job.journal.entries(), self.states.get(job.id), Parts(job)
        newest = _newest_parts(job)
        counted = _counted(job, entries[-1], state, parts)
        failed = any(count for status, count in counted.items.items() if status not in COMPLETE)
        return View(
            manifest=job.manifest,
            entries=entries,
            items=counted.items,
            totals=counted.totals,
            chunks_done=counted.chunks,
            in_flight=None if state is None else state.out_chunks,
            **_rates(job, entries[-1], counted, parts, newest),
            engine=next((entry.engine for entry in entries if entry.event is Event.PINNED), None),
            waits=self._held_back(entries[-1], state),
            errors=complaints.commonest(parts, newest) if failed else (),
            retries=retries,
        )

    def _held_back(self, last: Entry, state: JobState | None) -> str | None:
        if last.state.is_terminal or last.state is State.STOPPED:
            return last.reason
        return self.waits or (state and state.waits) or None


def look(client: redis.Redis, settings: Settings, job_ids: Sequence[str]) -> Sighting:
    """What Redis says of these jobs, or that it says nothing."""
    try:
        states = job_state.read_now(client, job_ids)
        leader = job_desk.leader(client)
    except RedisError as error:
        return Sighting(waits=connection.unavailable(settings, error))
    return Sighting(states=states, waits=None if leader else NO_CONTROLLER)


@dataclass(frozen=True, kw_only=True)
class _Counted:
    items: Mapping[Status, int]
    totals: Totals
    chunks: int


def _counted(job: JobFolder, last: Entry, state: JobState | None, parts: Parts) -> _Counted:
    """What is counted already is not counted again: the last entry has it where the job has ended, and Redis while it runs."""
    chunks = job.manifest.chunks
    if last.state.is_terminal and last.counts is not None:
        return _sums(last.counts, last.totals or {}, chunks)
    if state is not None:
        return _Counted(items=state.items, totals=state.totals, chunks=min(state.collected, chunks))
    tally = parts.tally()
    return _sums(tally.counts, tally.totals, min(parts.last(), chunks))


def _sums(counts: Mapping[str, int], totals: Mapping[str, Any], chunks: int) -> _Counted:
    items = {Status(status): count for status, count in counts.items()}
    return _Counted(items=items, totals=job_totals.from_fields(totals), chunks=chunks)


def _newest_parts(job: JobFolder) -> Sequence[Part]:
    """The last of the committed parts, in their order; their names sort as their numbers do.

    A job of a million items has thousands, of which all names are read, and no more.
    """
    with disk.explained(job.path):
        names = sorted(name for name in os.listdir(job.results) if name.endswith(part.LINES))[-_NEWEST:]  # noqa: PTH208 - iterdir takes ten times as long
    found = (Part.parse(name.removesuffix(part.LINES)) for name in names)
    return [each for each in found if each is not None]


def _rates(job: JobFolder, last: Entry, counted: _Counted, parts: Parts, newest: Sequence[Part]) -> Mapping[str, float]:
    """Items and tokens a second, from the calls a second: an item has as many calls, and a call as many tokens, as on average."""
    called = sum(counted.totals.calls.values())
    if not newest or not called:
        return {}
    manifest = job.manifest
    if last.state.is_terminal:
        calls_per_s = called / max(last.at - manifest.created_at, pace.LEAST_S)
    else:
        calls_per_s = pace.calls_per_s(parts, newest, since=manifest.created_at)
    return {
        "items_per_s": calls_per_s * manifest.items / manifest.chunks,
        "tokens_per_s": calls_per_s * counted.totals.completion_tokens / called,
    }
