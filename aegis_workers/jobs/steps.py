"""The steps of a job, carried out: each is one move between the disk and Redis that may be cut off anywhere and is taken again.

The order is what keeps a line from being lost or doubled. A part is on disk before Redis is asked to forget its outcomes, and
among the results only after Redis has agreed, under the token of the one that leads: a leader that was frozen is refused there.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Literal, assert_never

import structlog

from aegis_workers import telemetry
from aegis_workers.jobs.charge import Charge
from aegis_workers.jobs.course import Step
from aegis_workers.jobs.gathering import Gathered
from aegis_workers.jobs.journal import Entry, Event, State
from aegis_workers.outcome import Status
from aegis_workers.routing import Engine
from aegis_workers.state.job_outcomes import Recorded
from aegis_workers.state.job_state import JobState
from aegis_workers.state.job_state import State as RedisState
from aegis_workers.state.jobs import Image, Jobs, Ruling
from aegis_workers.telemetry import ItemsCollected

log = structlog.get_logger(__name__)

# A part is written this often, or sooner where so much waits for it.
PART_EVERY_S = 1.0
PART_BYTES = 4_000_000
_OUTCOMES_AT_ONCE = 512
_CANCELLED = "the job was cancelled before this item was done"
_EXPIRED = "the job expired before this item was done: submit it again with more time"


class Deposed(Exception):
    """Another controller leads."""


class Reopen(Exception):
    """What is known of the job may be wrong: its folder must be read again."""


class Steps:
    """Takes steps under one token. Every one raises `RedisError`, `SpoolUnavailable`, `Deposed` or `Reopen`."""

    def __init__(self, jobs: Jobs, token: int, *, window_calls: int) -> None:
        self._jobs = jobs
        self._token = token
        self._part_calls = max(1, window_calls // 4)

    async def take(self, step: Step, charge: Charge, state: JobState | None) -> bool:
        """Take a step; whether there may be another one at once."""
        match step:
            case Step.FORGET:
                return _done(await self._jobs.drop(self._token, charge.folder.id))
            case Step.INSTALL:
                return await self.install(charge, state)
            case Step.CLOSE:
                return await self._close(charge)
            case Step.COLLECT:
                return await self._collect(charge, state)
            case Step.EXPIRE | Step.BREAK_OFF | Step.FINISH:
                return await self._toward_its_end(step, charge)
            case Step.GO_ON:
                return False
            case _:
                assert_never(step)

    async def _toward_its_end(self, step: Literal[Step.EXPIRE, Step.BREAK_OFF, Step.FINISH], charge: Charge) -> bool:
        match step:
            case Step.EXPIRE:
                return await _enter(charge, Event.EXPIRING, State.FINALIZING)
            case Step.BREAK_OFF:
                return await self._break_off(charge)
            case Step.FINISH:
                return await self._finish(charge)
            case _:
                assert_never(step)

    async def install(self, charge: Charge, state: JobState | None, *, is_lost: bool = False) -> bool:
        """Build the job in Redis as it is on disk; outcomes that wait there stay. `is_lost`: some are known to be."""
        ledger, survivors, whole = charge.ledger, await self._waiting(charge, state), False
        if state is not None and state.state is RedisState.OPEN and state.collected <= ledger.collected and not is_lost:
            whole = len(survivors) == state.recorded - state.collected
        image = Image(
            # What was fed is in motion or has an outcome, unless something is lost: then all that has none is fed anew.
            fed=state.fed if state is not None and whole else ledger.first_missing,
            collected=ledger.collected,
            engine=charge.pinned,
            items=ledger.items,
            totals=ledger.totals,
            done=bytes(ledger.done),
            survivors=[outcome for outcome in survivors if outcome.chunk not in ledger.done],
        )
        recorded = None if state is None else state.recorded
        ruling = await self._jobs.install(self._token, charge.folder.id, image, recorded=recorded)
        if _done(ruling):
            log.info("job.installed", job=charge.folder.id, collected=image.collected, fed=image.fed, again=not whole)
        return True

    async def _waiting(self, charge: Charge, state: JobState | None) -> Sequence[Recorded]:
        found: list[Recorded] = []
        while state is not None and (more := await self._jobs.collect(charge.folder.id, _after(found, 0), _OUTCOMES_AT_ONCE)):
            found.extend(more)
        return found

    async def _close(self, charge: Charge) -> bool:
        closed = _done(await self._jobs.close(self._token, charge.folder.id))
        await self._jobs.cancel_batches(charge.folder.id)
        log.info("job.closed", job=charge.folder.id)
        return closed

    async def _collect(self, charge: Charge, state: JobState | None) -> bool:
        if state is None or not self._is_due(charge, state):
            return False
        outcomes = await self._outcomes(charge)
        if not _follow(outcomes, charge.ledger.collected):  # Redis has lost some
            return await self.install(charge, state)
        gathered = await asyncio.to_thread(charge.gatherer.gather, outcomes, charge.ledger.done)
        await self._keep(charge, gathered)
        for ending in gathered.endings:
            charge.recent.note(ending)
        return True

    def _is_due(self, charge: Charge, state: JobState) -> bool:
        waiting = state.recorded - state.collected
        enough = waiting >= self._part_calls or state.held_bytes >= PART_BYTES or state.state is RedisState.CLOSING
        return enough or state.out_chunks == 0 or time.monotonic() - charge.collected_at >= PART_EVERY_S

    async def _outcomes(self, charge: Charge) -> Sequence[Recorded]:
        found: list[Recorded] = []
        size_bytes = 0
        while size_bytes < PART_BYTES:
            after = _after(found, charge.ledger.collected)
            more = await self._jobs.collect(charge.folder.id, after, _OUTCOMES_AT_ONCE)
            found.extend(more)
            size_bytes += sum(outcome.size_bytes for outcome in more)
            if len(more) < _OUTCOMES_AT_ONCE:
                break
        return found

    async def _keep(self, charge: Charge, gathered: Gathered) -> None:
        """Put what was gathered among the results, and have Redis forget it."""
        try:
            part = await asyncio.to_thread(charge.ledger.write, gathered)
        except FileExistsError:
            raise Reopen from None
        ruling = await self._jobs.commit(
            self._token,
            charge.folder.id,
            collected=gathered.first - 1,
            last=gathered.outcome or gathered.last,
            size_bytes=gathered.size_bytes,
            items=gathered.items,
            totals=gathered.totals,
        )
        if not _done(ruling):
            raise Reopen
        telemetry.tell(ItemsCollected(counts=gathered.items))
        await asyncio.to_thread(charge.ledger.publish, part)
        charge.collected_at = time.monotonic()

    async def _break_off(self, charge: Charge) -> bool:
        """The last lines of items without one, part by part; then the job has ended."""
        await self._jobs.cancel_batches(charge.folder.id)
        cancelled = charge.state is State.CANCELLING
        status, reason = (Status.CANCELLED, _CANCELLED) if cancelled else (Status.EXPIRED, _EXPIRED)
        ledger = charge.ledger
        gathered = await asyncio.to_thread(charge.gatherer.break_off, ledger.collected + 1, status, reason, ledger.done)
        if gathered is not None:
            await self._keep(charge, gathered)
            return True
        return await self._end(charge, State.CANCELLED if cancelled else State.EXPIRED)

    async def _finish(self, charge: Charge) -> bool:
        if charge.state is not State.FINALIZING:
            await _enter(charge, Event.FINALIZING, State.FINALIZING)
        if charge.state is not State.FINALIZING:  # somebody else was first, and may have decided otherwise
            return True
        return await self._end(charge, State.COMPLETED)

    async def _end(self, charge: Charge, state: State) -> bool:
        counts = {status.value: count for status, count in charge.ledger.items.items()}
        await _enter(charge, Event.ENDED, state, counts=counts, totals=charge.ledger.totals.fields())
        _done(await self._jobs.drop(self._token, charge.folder.id))
        log.info("job.ended", job=charge.folder.id, state=charge.state.value)
        return False

    async def stop(self, charge: Charge, reason: str) -> None:
        """Feed no more of it until somebody resumes it."""
        await _enter(charge, Event.STOPPED, State.STOPPED, reason=reason)
        log.warning("job.stopped", job=charge.folder.id)

    async def pin(self, charge: Charge, engine: Engine) -> None:
        """From now on it stays on this engine, or on the one that was chosen first."""
        if charge.pinned is None:
            await _enter(charge, Event.PINNED, State.IN_PROGRESS, engine=engine.value)
        if charge.pinned is not None:
            _done(await self._jobs.note(self._token, charge.folder.id, engine=charge.pinned.value))


async def _enter(charge: Charge, event: Event, state: State, **facts: Any) -> bool:
    """Write down what happened, if the journal is still as it was read; read it again in any case. True: there is more to do."""

    def append() -> None:
        charge.folder.journal.append(len(charge.entries) + 1, Entry(event=event, state=state, **facts))
        charge.look()

    await asyncio.to_thread(append)
    return True


def _done(ruling: Ruling) -> bool:
    """Whether a write was made. Raises `Deposed`; in any other case the job is read anew in the next pass."""
    if ruling is Ruling.NOT_LEADER:
        raise Deposed
    return ruling is Ruling.DONE


def _follow(outcomes: Sequence[Recorded], number: int) -> bool:
    """Whether these are what was recorded next, without a gap."""
    return bool(outcomes) and outcomes[0].number == number + 1 and outcomes[-1].number == number + len(outcomes)


def _after(found: Sequence[Recorded], number: int) -> int:
    return found[-1].number if found else number
