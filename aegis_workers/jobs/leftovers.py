"""The items of a job that are worth a retry."""

from collections.abc import Iterator

from aegis_workers.jobs import family
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.parts import Parts
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.view import COMPLETE

_NO_LINE, _COMPLETE, _INCOMPLETE = range(3)


def numbers(spool: Spool, job: JobFolder) -> Iterator[int]:
    """The items whose latest line, be it a retry's, is no complete answer, in rising order. Takes a byte of memory an item.

    Items without a line are not among them: the job is not done with these. Raises `SpoolUnavailable`.
    """
    endings = bytearray(job.manifest.items)
    for member in family.members(spool, job):
        parts = Parts(member.job)
        for part in parts.committed():
            for item, _, status in parts.lines(part):
                endings[member.root(item)] = _COMPLETE if status in COMPLETE else _INCOMPLETE
    return (item for item, ending in enumerate(endings) if ending == _INCOMPLETE)
