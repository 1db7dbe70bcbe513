"""The jobs of a spool as their leader knows them: those in its charge, and those that have ended."""

import time
from collections.abc import Callable

import structlog

from aegis_workers.errors import SpoolUnavailable, UnknownJob
from aegis_workers.jobs import charge as charges
from aegis_workers.jobs.charge import Charge
from aegis_workers.jobs.spool import Spool
from aegis_workers.settings import Settings

log = structlog.get_logger(__name__)

_DAY_S = 86_400.0
# A job that could not be read is tried again after so long.
_AGAIN_S = 5.0


class Roll:
    """Reads the spool, and knows nothing of Redis. All of it may block, and no two threads may use it at once.

    `charges`: the jobs in charge, by id. `new`: those that were found and have not ended, and are not in charge yet.
    """

    def __init__(self, spool: Spool, settings: Settings, token: int) -> None:
        self._spool = spool
        self._settings = settings
        self._token = token
        self._ended_at: dict[str, float] = {}
        self._avoided_until: dict[str, float] = {}
        self.charges: dict[str, Charge] = {}
        self.new: set[str] = set()

    @property
    def open_ids(self) -> list[str]:
        """The ids of all jobs that have not ended, the oldest first."""
        return sorted(self.new | self.charges.keys())

    def is_over(self, job_id: str) -> bool:
        """Whether a job has ended, or is there no more: not one that cannot be read just now."""
        return job_id in self._ended_at or job_id not in self._spool

    @property
    def in_turn(self) -> list[Charge]:
        """The jobs in charge, the oldest first."""
        return [self.charges[job_id] for job_id in sorted(self.charges)]

    def look(self) -> None:
        """Read the folder of jobs, and the journals of those in charge. Raises `SpoolUnavailable`."""
        ids = set(self._spool.ids())
        for job_id in self.charges.keys() - ids:  # somebody deleted it
            del self.charges[job_id]
        self.new &= ids
        for job_id in ids - self.charges.keys() - self.new - self._ended_at.keys():
            self._meet(job_id)
        for job_id, charge in list(self.charges.items()):
            self._try(job_id, charge.look)

    def _meet(self, job_id: str) -> None:
        def read() -> None:
            last = self._spool.open(job_id).journal.last()
            if last.state.is_terminal:
                self._ended_at[job_id] = last.at
            else:
                self.new.add(job_id)

        self._try(job_id, read)

    def admit(self, job_id: str, collected: int | None) -> None:
        """Take charge of a new job; `collected` is what Redis says, None where it does not know the job."""

        def read() -> None:
            self.charges[job_id] = charges.take(self._spool.open(job_id), collected, self._token, self._settings)
            self.new.discard(job_id)

        self._try(job_id, read)

    def _try(self, job_id: str, read: Callable[[], None]) -> None:
        """A job that cannot be read hinders no other."""
        if time.monotonic() < self._avoided_until.get(job_id, 0.0):
            return
        try:
            read()
        except UnknownJob:
            self.charges.pop(job_id, None)
        except SpoolUnavailable as error:
            log.warning("job.unreadable", job=job_id, error=str(error))
            self.avoid(job_id)

    def avoid(self, job_id: str) -> None:
        """Leave a job alone for a while, and read it again then as if it were new."""
        self._avoided_until[job_id] = time.monotonic() + _AGAIN_S
        self.reopen(job_id)

    def reopen(self, job_id: str) -> None:
        """What is known of a job may be wrong: read it again as if it were new."""
        if self.charges.pop(job_id, None) is not None:
            self.new.add(job_id)

    def dismiss(self, job_id: str) -> None:
        """The job has ended."""
        self._ended_at[job_id] = self.charges.pop(job_id).entries[-1].at

    def sweep(self) -> list[str]:
        """Remove what killed processes left behind, and the jobs that ended too long ago; the ids of these."""
        self._spool.sweep()
        days = self._settings.job_retention_days
        if days is None:
            return []
        old = [job_id for job_id, at in self._ended_at.items() if time.time() - at > days * _DAY_S]
        return [job_id for job_id in old if self._delete(job_id)]

    def _delete(self, job_id: str) -> bool:
        try:
            self._spool.delete(job_id)
        except UnknownJob:
            pass
        except SpoolUnavailable as error:
            log.warning("job.not_deleted", job=job_id, error=str(error))
            return False
        del self._ended_at[job_id]
        log.info("job.deleted", job=job_id, reason="AEGIS_JOB_RETENTION_DAYS")
        return True
