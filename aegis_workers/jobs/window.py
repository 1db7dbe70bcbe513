"""What is fed next: a pure function from what is in motion to the job whose next batch goes into the queue.

In motion is what was fed and is not finished, and what is recorded and not collected: all that Redis holds of jobs. What waits
for an engine has a window of its own, so that it holds up nobody whose engine serves: Redis holds two windows at most.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Load:
    """An amount of work: calls, and the bytes that their messages or outcomes take in Redis."""

    calls: int = 0
    size_bytes: int = 0

    def __add__(self, other: "Load") -> "Load":
        return Load(calls=self.calls + other.calls, size_bytes=self.size_bytes + other.size_bytes)

    def beyond(self, bounds: "Load") -> "Load":
        """What of it is over `bounds`."""
        return Load(calls=max(0, self.calls - bounds.calls), size_bytes=max(0, self.size_bytes - bounds.size_bytes))

    def fits(self, bounds: "Load") -> bool:
        """Whether it is within `bounds` by count and by bytes."""
        return self.calls <= bounds.calls and self.size_bytes <= bounds.size_bytes

    def share_of(self, bounds: "Load") -> float:
        """The part of `bounds` that it takes, by whichever of count and bytes is scarcer for it."""
        return max(self.calls / bounds.calls, self.size_bytes / bounds.size_bytes)


EMPTY = Load()


@dataclass(frozen=True, kw_only=True)
class Applicant:
    """A job that has something to feed: what of it is in motion, and its next batch."""

    job_id: str
    in_motion: Load
    batch: Load


def occupied(moving: Load, stuck: Load, bounds: Load) -> Load:
    """What counts against the window, of what is in motion of jobs that are fed and of those whose engine is down."""
    return moving + stuck.beyond(bounds)


def choose(applicants: Iterable[Applicant], in_motion: Load, bounds: Load) -> Applicant | None:
    """The job whose next batch is to be fed; None where there is no room for it.

    `in_motion` is what counts of all jobs, also of those that have nothing to feed. The job with the smallest share goes first,
    and nobody passes it while its batch does not fit: so that jobs share the window evenly, and a large batch has its turn. A
    batch that is larger than the window goes when nothing else is in motion.
    """
    first = min(applicants, key=lambda job: (job.in_motion.share_of(bounds), job.job_id), default=None)
    if first is None:
        return None
    fits = (in_motion + first.batch).fits(bounds)
    return first if fits or in_motion == EMPTY else None
