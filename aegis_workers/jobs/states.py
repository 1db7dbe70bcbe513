"""How many jobs are in which state, asked again and again."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from aegis_workers.errors import SpoolUnavailable, UnknownJob
from aegis_workers.jobs.journal import State
from aegis_workers.jobs.spool import Spool


class States:
    """Those of one spool. A job that has ended is read once: nothing can follow."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._ended: dict[str, State] = {}

    def count(self) -> Mapping[State, int]:
        """Jobs by state; one whose folder is damaged, or was deleted meanwhile, is in none. Raises `SpoolUnavailable`."""
        states = {job_id: state for job_id in self._spool.ids() if (state := self._state(job_id)) is not None}
        self._ended = {job_id: state for job_id, state in states.items() if state.is_terminal}
        return Counter(states.values())

    def _state(self, job_id: str) -> State | None:
        if job_id in self._ended:
            return self._ended[job_id]
        with suppress(SpoolUnavailable, UnknownJob):
            return self._spool.open(job_id).journal.last().state
        return None
