"""One leader's passes over all jobs: each reads what is, and takes the next step of every job.

Nothing is remembered that could not be read again: a pass may end anywhere, and another leader's goes on from there.
"""

import asyncio
import time
from collections.abc import Mapping

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from aegis_workers.errors import SpoolFull, SpoolUnavailable
from aegis_workers.jobs import course, feeding
from aegis_workers.jobs.charge import Charge
from aegis_workers.jobs.course import Facts, Step
from aegis_workers.jobs.feeding import Turn
from aegis_workers.jobs.journal import State
from aegis_workers.jobs.manifest import EnginePolicy
from aegis_workers.jobs.outlook import Outlook
from aegis_workers.jobs.parts import Superseded
from aegis_workers.jobs.reconciler import Reconciler
from aegis_workers.jobs.roll import Roll
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.steps import Deposed, Reopen, Steps
from aegis_workers.routing import Run
from aegis_workers.settings import Settings
from aegis_workers.state import connection
from aegis_workers.state.job_state import JobState
from aegis_workers.state.job_state import State as RedisState
from aegis_workers.state.jobs import Jobs, Ruling

log = structlog.get_logger(__name__)

# How long the next pass is waited for: after one that moved something, while jobs are open, and where there are none.
BUSY_S = 0.02
OPEN_S = 0.25
IDLE_S = 1.0
_LOOK_EVERY_S = OPEN_S
_SWEEP_EVERY_S = 60.0

DISK_FULL = "the disk of AEGIS_DATA_DIR is full: it goes on when there is room"
REDIS_FULL = "Redis is full: it goes on when there is room"


class Overseer:
    """Looks after the jobs of one spool under one token."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings, token: int) -> None:
        self._settings = settings
        self._token = token
        self._jobs = Jobs(client)
        self._steps = Steps(self._jobs, token, window_calls=settings.window_calls)
        self._roll = Roll(Spool(settings.data_dir), settings, token)
        self._reconciler = Reconciler(client, self._jobs, token)
        self._outlook = Outlook(client, settings)
        self._looked_at = self._swept_at = float("-inf")
        self._is_disk_full = False
        self._says = ""

    async def run(self) -> None:
        """Passes until cancelled; returns where another controller leads."""
        while True:
            try:
                moved = await self.step()
            except (Deposed, Superseded):
                log.warning("controller.deposed", token=self._token)
                return
            except (RedisError, OSError, SpoolUnavailable) as error:
                self._say(repr(error))
                await asyncio.sleep(connection.RETRY_S)
            else:
                self._say("")
                await asyncio.sleep(BUSY_S if moved else OPEN_S if self._roll.open_ids else IDLE_S)

    def _say(self, trouble: str) -> None:
        """Once, and not in every pass."""
        if trouble and trouble != self._says:
            log.warning("jobs.wait", error=trouble)
        self._says = trouble

    async def step(self) -> bool:
        """One pass; whether it moved anything. Raises `Deposed`, `RedisError`, and `SpoolUnavailable` where there is no spool."""
        await self._look()
        states = await self._jobs.read_many(self._roll.open_ids)
        for job_id in sorted(self._roll.new):
            found = states.get(job_id)
            await asyncio.to_thread(self._roll.admit, job_id, None if found is None else found.collected)
        self._is_disk_full = False
        moved = [await self._tend(charge, states.get(charge.folder.id)) for charge in self._roll.in_turn]
        return await self._feed() or any(moved)

    async def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_EVERY_S:
            await asyncio.to_thread(self._roll.look)
            self._looked_at = now
        if now - self._swept_at >= _SWEEP_EVERY_S:
            await asyncio.to_thread(self._roll.sweep)
            await self._forget_others()
            self._swept_at = now

    async def _forget_others(self) -> None:
        """Redis need not know what has ended, or is on no disk any more."""
        for job_id in filter(self._roll.is_over, await self._jobs.open_ids()):
            if await self._jobs.drop(self._token, job_id) is Ruling.NOT_LEADER:
                raise Deposed

    async def _tend(self, charge: Charge, state: JobState | None) -> bool:
        """The next step of one job; whether there may be another at once."""
        job_id = charge.folder.id
        try:
            return await self._take_step(charge, state)
        except Reopen:
            self._roll.reopen(job_id)
            return True
        except SpoolFull:
            self._is_disk_full = True
        except SpoolUnavailable as error:
            log.warning("job.waits", job=job_id, error=str(error))
            self._roll.avoid(job_id)
        except (Deposed, Superseded):
            raise
        except RedisError as error:
            if not connection.is_full(error):
                raise
            charge.waits = REDIS_FULL
        except Exception:  # whatever is wrong with one job, the others go on
            log.exception("job.broken", job=job_id)
            self._roll.avoid(job_id)
        return False

    async def _take_step(self, charge: Charge, state: JobState | None) -> bool:
        step = course.decide(_facts(charge, state))
        if step is Step.INSTALL:  # whoever cancels a job may have closed it since its journal was read
            await asyncio.to_thread(charge.look)
            step = course.decide(_facts(charge, state))
        if step is None:
            self._roll.dismiss(charge.folder.id)
            return True
        moved = await self._steps.take(step, charge, state)
        objection = charge.recent.objection() if charge.state is State.IN_PROGRESS else None
        if objection is not None:
            await self._steps.stop(charge, objection)
        if state is not None and step is Step.GO_ON:
            await self._reconciler.look(charge, state)
            moved |= await self._feed_what_vanished(charge, state)
        return moved

    async def _feed_what_vanished(self, charge: Charge, state: JobState) -> bool:
        """Begin anew with what has no outcome where all was fed, nothing is in motion and something is missing all the same."""
        at_rest = state.out_chunks == 0 and charge.feeder.is_exhausted and charge.suspicion.stands_still(time.monotonic())
        return at_rest and await self._steps.install(charge, state, is_lost=True)

    async def _feed(self) -> bool:
        """One turn of feeding, and what those wait for that were not fed; whether anything was fed."""
        states = await self._jobs.read_many(self._roll.open_ids)
        hungry, stuck = {}, set()
        for charge in self._roll.in_turn:
            state = states.get(charge.folder.id)
            if state is None:
                continue
            charge.waits, waits_for_engine = await self._held_back(charge, state)
            if waits_for_engine:
                stuck.add(charge.folder.id)
            elif charge.waits is None:
                hungry[charge.folder.id] = charge
        turn = Turn(self._jobs, self._token, feeding.bounds(self._settings), states, stuck=stuck)
        await self._take_turn(turn, hungry)
        await self._note_waits(states)
        return turn.fed > 0

    async def _take_turn(self, turn: Turn, hungry: dict[str, Charge]) -> None:
        try:
            if await turn.take(hungry) is Ruling.NOT_LEADER:
                raise Deposed
        except RedisError as error:
            if not connection.is_full(error):
                raise
            for charge in hungry.values():
                charge.waits = REDIS_FULL
        except SpoolUnavailable as error:
            self._say(str(error))
        else:
            for charge in hungry.values():
                charge.waits = turn.waits(charge)

    async def _held_back(self, charge: Charge, state: JobState) -> tuple[str | None, bool]:
        """Why a job is not fed now, None where it may be; and whether that is for an engine."""
        if charge.state is not State.IN_PROGRESS or charge.has_expired or state.state is not RedisState.OPEN:
            return charge.entries[-1].reason or "", False
        if self._is_disk_full:
            return DISK_FULL, False
        decision = await self._outlook.decide(only=charge.pinned)
        if not isinstance(decision, Run):
            return decision.reason, True
        if charge.manifest.policy is EnginePolicy.PER_JOB and state.engine is None:
            await self._steps.pin(charge, decision.engine)
            return "", False  # it is fed in the next pass, if it is still to be fed then
        return None, False

    async def _note_waits(self, states: Mapping[str, JobState]) -> None:
        for charge in self._roll.in_turn:
            state = states.get(charge.folder.id)
            if state is not None and (charge.waits or None) != (state.waits or None):
                await self._jobs.note(self._token, charge.folder.id, waits=charge.waits or "")


def _facts(charge: Charge, state: JobState | None) -> Facts:
    return Facts(
        state=charge.state,
        has_expired=charge.has_expired,
        expires=charge.expires,
        collected=charge.ledger.collected,
        missing=charge.missing,
        in_redis=state,
    )
