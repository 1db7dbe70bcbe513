"""One turn of feeding: batches of all jobs go into the queue in fair order, until the window is full or nothing is left."""

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import replace

from redis.exceptions import RedisError

from aegis_workers import telemetry
from aegis_workers.jobs import message, window
from aegis_workers.jobs.charge import Charge
from aegis_workers.jobs.window import EMPTY, Applicant, Load
from aegis_workers.settings import Settings
from aegis_workers.state.job_state import JobState
from aegis_workers.state.jobs import Jobs, Ruling
from aegis_workers.telemetry import ChunksFed

NO_ROOM = "waits for room in the window (AEGIS_WINDOW_CALLS, AEGIS_WINDOW_BYTES), which other jobs fill"


def in_motion(state: JobState) -> Load:
    """What Redis holds of a job: fed and not finished, and recorded and not collected."""
    return Load(calls=state.out_chunks + state.recorded - state.collected, size_bytes=state.out_bytes + state.held_bytes)


def bounds(settings: Settings) -> Load:
    """What Redis may hold of all jobs."""
    return Load(calls=settings.window_calls, size_bytes=settings.window_bytes)


class Turn:
    """One turn. `states` are those of all jobs in Redis, fed or not, and `stuck` of them wait for an engine.

    `waits` says afterwards who had no room.
    """

    def __init__(
        self, jobs: Jobs, token: int, limits: Load, states: Mapping[str, JobState], *, stuck: Collection[str] = ()
    ) -> None:
        self._jobs = jobs
        self._token = token
        self._limits = limits
        self._states = dict(states)
        self._moving = {job_id: in_motion(state) for job_id, state in states.items()}
        self._stuck = sum((self._moving[job_id] for job_id in stuck), EMPTY)
        self._total = sum((load for job_id, load in self._moving.items() if job_id not in stuck), EMPTY)
        self.fed = 0

    async def take(self, hungry: Mapping[str, Charge]) -> Ruling:
        """Feed these jobs; `not_leader` where another controller leads. Raises `RedisError` and `SpoolUnavailable`."""
        left = dict(hungry)
        while left:
            chosen = await self._choose(left)
            if chosen is None:
                break
            charge = left[chosen.job_id]
            ruling = await self._feed(charge)
            if ruling is Ruling.NOT_LEADER:
                return ruling
            if ruling is not Ruling.DONE:
                del left[chosen.job_id]
        return Ruling.DONE

    async def _choose(self, left: Mapping[str, Charge]) -> Applicant | None:
        for job_id, charge in left.items():
            fed = self._states[job_id].fed
            if not charge.feeder.is_at(fed) or charge.feeder.needs_filling:
                await asyncio.to_thread(charge.feeder.fill, fed, charge.ledger.done)
        applicants = [
            Applicant(job_id=job_id, in_motion=self._moving[job_id], batch=batch.load)
            for job_id, charge in left.items()
            if (batch := charge.feeder.next) is not None
        ]
        return window.choose(applicants, window.occupied(self._total, self._stuck, self._limits), self._limits)

    async def _feed(self, charge: Charge) -> Ruling:
        job_id = charge.folder.id
        state, batch = self._states[job_id], charge.feeder.take()
        ready = charge.contents.to_feed(batch, engine=charge.pinned, now=time.time())
        try:
            ruling = await self._jobs.feed(
                self._token, job_id, [ready], queue=message.QUEUE, fed=state.fed, fed_after=batch.after
            )
        except RedisError:
            charge.feeder.rewind()
            raise
        if ruling is Ruling.DONE:
            self._states[job_id] = replace(state, fed=batch.after)
            self._moving[job_id] += batch.load
            self._total += batch.load
            self.fed += batch.load.calls
            telemetry.tell(ChunksFed(chunks=batch.load.calls))
        else:
            charge.feeder.rewind()
        return ruling

    def waits(self, charge: Charge) -> str | None:
        """Why nothing of a hungry job was fed, where that is for others."""
        nothing_moves = self._moving[charge.folder.id] == EMPTY
        return NO_ROOM if nothing_moves and charge.feeder.next is not None else None
