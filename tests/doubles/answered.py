"""Jobs whose results a test writes, as a controller would have: nothing runs, and no engine is asked."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from aegis_workers.jobs import submission
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.journal import Entry, Event, State
from aegis_workers.jobs.part import Content, Part, ResultLine
from aegis_workers.jobs.parts import Parts
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms
from aegis_workers.outcome import Status
from aegis_workers.settings import Settings
from aegis_workers.state.job_totals import Totals


def submitted(settings: Settings, items: Iterable[Any] = ("one", "two", "three"), **terms: Any) -> JobFolder:
    """A job of these items, one chunk each."""
    return submission.write(Spool(settings.data_dir), Items(items=items), Terms(**terms), settings).job


def answer(job: JobFolder, statuses: Mapping[int, Status], *, message: str = "HTTP 404") -> None:
    """One more part, with the lines of these items."""
    parts = Parts(job)
    first = parts.last() + 1
    called = sum(status not in {Status.CANCELLED, Status.EXPIRED} for status in statuses.values())
    totals = Totals(prompt_tokens=10 * called, completion_tokens=5 * called, attempts=called, calls={"vllm": called})
    named = Part(first=first, last=first + len(statuses) - 1, token=1)
    parts.write(
        named,
        Content(
            chunks=[(item, item) for item in statuses],
            lines=[
                ResultLine(item=item, status=status, data=_line(job, item, status, message)) for item, status in statuses.items()
            ],
            totals=totals.fields(),
        ),
    )
    parts.commit(named)


def enter(job: JobFolder, event: Event, state: State, **facts: Any) -> None:
    """One more entry of its journal."""
    assert job.journal.append(len(job.journal.entries()) + 1, Entry(event=event, state=state, **facts))


def end(job: JobFolder, state: State = State.COMPLETED) -> None:
    """It has ended, with what it has."""
    tally = Parts(job).tally()
    enter(job, Event.ENDED, state, counts=tally.counts, totals=tally.totals)


def finished(settings: Settings, *statuses: Status) -> JobFolder:
    """A completed job whose items ended so."""
    job = submitted(settings, [f"text {number}" for number in range(len(statuses))])
    answer(job, dict(enumerate(statuses)))
    end(job)
    return job


def _line(job: JobFolder, item: int, status: Status, message: str) -> bytes:
    good = status in {Status.OK, Status.EMPTY}
    line: dict[str, Any] = {
        "custom_id": job.item(item).custom_id,
        "status": status.value,
        "data": {"entities": [], "relations": []} if good else None,
        "error": None if good else {"class": "item-fatal", "message": message},
        "engine": "vllm",
        "job": job.id,
    }
    return json.dumps(line, ensure_ascii=False).encode()
