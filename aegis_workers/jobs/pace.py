"""How fast a job goes, from the parts that its results came in: their names say how many calls, their files when."""

import time
from bisect import bisect_left
from collections.abc import Sequence

from aegis_workers.jobs import disk
from aegis_workers.jobs.part import Part
from aegis_workers.jobs.parts import Parts

# Rates are those of the last minute.
WINDOW_S = 60.0
# A rate of a shorter time would say more of the moment at which parts are written.
LEAST_S = 1.0


def calls_per_s(parts: Parts, newest: Sequence[Part], *, since: float) -> float:
    """Calls a second over the last minute. `newest`: one part or more; `since`: when the job began, epoch seconds.

    Where the first of the `newest` parts lies within the minute, it counts from there: before that the job may have waited, or
    there are more parts than were looked at. Raises `SpoolUnavailable`.
    """
    now = time.time()
    begun = max(since, now - WINDOW_S)
    with disk.explained(parts.path(newest[0])):
        start = bisect_left(newest, begun, key=lambda each: parts.path(each).stat().st_mtime)
        if start == 0 and len(newest) > 1:
            begun, start = parts.path(newest[0]).stat().st_mtime, 1
    calls = newest[-1].last - newest[start].first + 1 if start < len(newest) else 0
    return calls / max(now - begun, LEAST_S)
