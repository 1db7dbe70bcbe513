"""A job and the jobs that retry it: which of them has the latest line of each item."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aegis_workers.jobs.bitmap import Bitmap
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.parts import Parts
from aegis_workers.jobs.spool import Spool


@dataclass(frozen=True, kw_only=True)
class Member:
    """A job of a family. `roots`: of each of its items, the number in the job at the root; None for that job itself."""

    job: JobFolder
    roots: "array[int] | None" = None

    def root(self, item: int) -> int:
        """The item's number in the job at the root."""
        return item if self.roots is None else self.roots[item]


def members(spool: Spool, job: JobFolder) -> list[Member]:
    """The job, its retries, and theirs, the oldest first. Raises `SpoolUnavailable`."""
    found = {job.id: Member(job=job)}
    waiting = [job.id]
    while waiting:
        parent = found[waiting.pop()]
        for child_id in parent.job.children():
            if child_id in spool:
                child = spool.open(child_id)
                found[child_id] = Member(job=child, roots=_roots(child, parent))
                waiting.append(child_id)
    return [found[job_id] for job_id in sorted(found)]


def superseded(family: Sequence[Member]) -> Mapping[str, Bitmap]:
    """Of each member's id, the items of the job at the root whose line a later member has by now."""
    later = Bitmap(family[0].job.manifest.items)
    by_id: dict[str, Bitmap] = {}
    for member in reversed(family[1:]):
        by_id[member.job.id] = later
        later = later.copy()
        for first, last in Parts(member.job).complete().ranges():
            for item in range(first, last + 1):
                later.add(member.root(item))
    return {family[0].job.id: later, **by_id}


def _roots(child: JobFolder, parent: Member) -> "array[int]":
    return array("Q", (parent.root(number) for number in child.parents() or ()))
