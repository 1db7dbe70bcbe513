"""What a job's failed lines complain of most, as its newest results show."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from aegis_workers.jobs import disk, failures
from aegis_workers.jobs.part import Part
from aegis_workers.jobs.parts import Parts
from aegis_workers.jobs.view import COMPLETE, CommonError
from aegis_workers.outcome import Status

# What is looked through, so that an answer takes a few milliseconds however large the job is.
_MAX_PARTS = 5
_MAX_FAILURES = 200
_MAX_SHOWN = 3
# Of these the status says all that there is to say.
_UNTOLD = COMPLETE | {Status.CANCELLED, Status.EXPIRED}


def commonest(parts: Parts, newest: Sequence[Part]) -> Sequence[CommonError]:
    """The errors of the newest failures, the most common first. Raises `SpoolUnavailable`."""
    found = (message for each in reversed(newest[-_MAX_PARTS:]) for message in _complaints(parts, each))
    counts = Counter(islice(found, _MAX_FAILURES))
    return [CommonError(message=message, count=count) for message, count in counts.most_common(_MAX_SHOWN)]


def _complaints(parts: Parts, named: Part) -> Iterator[str]:
    failed = [(offset, Status(status)) for _, offset, status in parts.lines(named) if status not in _UNTOLD]
    if not failed:
        return
    path = parts.path(named)
    with disk.explained(path), path.open("rb") as file:
        for offset, status in reversed(failed):
            file.seek(offset)
            yield failures.ending(status, file.readline()).error or status.value
