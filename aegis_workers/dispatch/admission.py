"""The task boundary: a call waits here until an engine may take it, and is pinned to it from then on.

Everything that waits in this process waits in one line for each lane, and for each engine that a job stays on. One pump reads
the mode and the engines' states, decides for the heads of the lines, and exchanges slots for them in one step of Redis, which
checks that what was decided on still holds. So waiting calls cost nothing and keep their order, and one round trip at a time is
under way however many wait.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import assert_never

from redis.exceptions import RedisError

from aegis_workers.dispatch import running
from aegis_workers.dispatch.delivery import CallId
from aegis_workers.dispatch.fleet import Fleet, not_up
from aegis_workers.dispatch.flights import Flights
from aegis_workers.dispatch.lines import Admitted, Awaited, Line, Place, Waiter
from aegis_workers.dispatch.queueing import Lines
from aegis_workers.dispatch.returns import Returns
from aegis_workers.dispatch.turn import Ledger, Turn, exchanged
from aegis_workers.errors import ConfigurationError, WorkerStopping
from aegis_workers.routing import Decision, Engine, Lane, Refuse, Run, TaskType, Wait, lane
from aegis_workers.state.cached import Cached
from aegis_workers.state.engine_status import Statuses
from aegis_workers.state.mode import ModeReading
from aegis_workers.state.slots import REFRESH_S, Exchange, Give, Outcome, Refusal

# Calls that wait for an engine look again this often even if nothing told them to.
_LOOK_AGAIN_S = 1.0
# What was decided on has changed: it is read again, and not in a busy loop should it change all the time.
_AT_ONCE_S = 0.005
# Calls that wait for a slot ask again this often even if no push told them that one was given back.
_ASK_AGAIN_S = 0.25
# A Redis that does not answer is asked again this often.
_REDIS_AGAIN_S = 0.5
# Calls for which one step asks at most: few enough to keep it short. Where there was no slot for all, it asks for as many as are
# given back, and for a few that others may have given back.
_ASKED_AT_ONCE = 64
_ASKED_BEYOND = 4
# What a worker that ends waits for its slots to be given back; after that their leases end by themselves.
_LAST_WORDS_S = 1.0


class Admission:
    """Decides where and when each call of this process runs."""

    def __init__(
        self,
        fleet: Fleet,
        mode: Cached[ModeReading],
        statuses: Cached[Statuses],
        ledger: Ledger,
        *,
        longest_wait_s: float | None = None,
        is_alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self._fleet = fleet
        self._mode = mode
        self._statuses = statuses
        self._ledger = ledger
        self._longest_wait_s = longest_wait_s
        self._is_alive = is_alive
        self._lines = Lines()
        self._flights = Flights()
        self._changed = asyncio.Event()
        self._returns = Returns(self._changed.set, lambda: self._lines.is_full)
        self._refresh_at = 0.0
        self._closed = False
        self._load = 0

    @asynccontextmanager
    async def slot(self, task_type: TaskType, call: CallId) -> AsyncIterator[Admitted]:
        """Waits for its turn, and gives the slot back at the end.

        Raises `ConfigurationError` where no allowed engine is configured, `CallRevoked` where the task was revoked,
        `WaitedTooLong` and `WorkerStopping` where the message should go back to its queue.
        """
        self._load += 1
        try:
            admitted = await self._wait(task_type, call)
            try:
                yield admitted
            finally:
                self._give_back(admitted)
        finally:
            self._load -= 1

    async def _wait(self, task_type: TaskType, call: CallId) -> Admitted:
        if self._closed:
            raise WorkerStopping("the worker is stopping")
        admitted = asyncio.get_running_loop().create_future()
        task, since = running.current(), time.monotonic()
        waiter = Waiter(task_type=task_type, call=call, task=task, since=since, admitted=admitted)
        self._lines.join(waiter)
        self._changed.set()
        try:
            return await waiter.admitted
        except asyncio.CancelledError:
            # A call can be cancelled in the instant in which it was admitted: its slot must not be lost.
            if waiter.admitted.done() and not waiter.admitted.cancelled() and waiter.admitted.exception() is None:
                self._give_back(waiter.admitted.result())
            raise

    def _give_back(self, admitted: Admitted) -> None:
        self._flights.remove(admitted)
        give = Give(call_id=admitted.call_id, lane=admitted.lane, url=admitted.client.url, ended=admitted.ended)
        self._returns.add(admitted.engine, give)

    def nudge(self) -> None:
        """Something that routing reads has changed, or a slot became free: look again."""
        self._changed.set()

    def close(self) -> None:
        """Admit nobody any more; every call that waits ends with `WorkerStopping`."""
        self._closed = True
        self._lines.fail_all(WorkerStopping("the worker is stopping"))

    @property
    def load(self) -> int:
        """Calls of this process that wait or are in flight; may be read from any thread."""
        return self._load

    @property
    def in_flight(self) -> Mapping[str, int]:
        """Calls in flight of this process, by engine."""
        return self._flights.counts

    @property
    def waiting(self) -> Mapping[str, int]:
        """Calls of this process that wait, by what they wait for."""
        return self._lines.reasons

    @property
    def awaited(self) -> Mapping[tuple[Lane, Awaited], int]:
        """The same by lane and in words that can be counted by; may be read from any thread."""
        return self._lines.awaited

    def waits_for(self, task_type: TaskType, only: Engine | None = None) -> str:
        """What calls of this type wait for now, in words."""
        return self._lines[lane(task_type), only].reason

    async def run(self) -> None:
        """The pump: admits whoever can be admitted, whenever something changed. Runs until cancelled."""
        try:
            while True:
                try:
                    async with asyncio.timeout(self._idle_s()):
                        await self._changed.wait()
                except TimeoutError:
                    if self._lines.waits_for_engine:
                        self._statuses.drop()
                self._changed.clear()
                self._returns.woken()
                await self._turn()
        finally:
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self._return_all()

    def _idle_s(self) -> float | None:
        times = [line.look_again_s for line in self._lines if not line.is_empty()]
        if self._flights:
            times.append(max(0.0, self._refresh_at - time.monotonic()))
        if self._returns:
            times.append(_REDIS_AGAIN_S)
        return min(times, default=None)

    async def _turn(self) -> None:
        try:
            await self._refresh()
            await self._admit()
        except (RedisError, OSError) as error:
            for line in self._lines:
                line.waits(Awaited.REDIS, f"waits for Redis, which does not answer: {error!r}", _REDIS_AGAIN_S)

    async def _refresh(self) -> None:
        """Holds on to the leases of what is in flight."""
        if time.monotonic() < self._refresh_at:
            return
        self._refresh_at = time.monotonic() + _REDIS_AGAIN_S
        held = self._flights.leases
        if held and self._is_alive():
            await self._ledger.refresh(held)
        self._refresh_at = time.monotonic() + REFRESH_S

    async def _admit(self) -> None:
        if self._longest_wait_s is not None:
            self._lines.fail_older(time.monotonic() - self._longest_wait_s)
        turn = Turn((await self._mode.read()).value, (await self._statuses.read()).value)
        self._flights.make_way(turn.statuses)
        # From here to the exchange there is no await: it is asked for by what has been read.
        for line in self._lines:
            if self._is_alive():
                self._ask(line, turn)
            else:
                line.waits(Awaited.LIVENESS, "waits for Redis to know again that this worker lives", _REDIS_AGAIN_S)
        for engine in Engine:
            await self._exchange(engine, turn)

    def _ask(self, line: Line, turn: Turn) -> None:
        """Notes for which engine the head of the line asks, and ends those that no engine will ever serve."""
        line.drop_ended()
        count = min(_ASKED_AT_ONCE, len(self._returns) + _ASKED_BEYOND) if line.is_full else _ASKED_AT_ONCE
        for waiter in list(line.head(count)):
            match decision := turn.decision(waiter, self.decide):
                case Refuse():
                    waiter.fail(ConfigurationError(decision.reason))
                case Wait():
                    line.waits(Awaited.ENGINE, decision.reason, _LOOK_AGAIN_S)
                    return
                case Run():
                    turn.asking[decision.engine].append((waiter, decision))
                case _:
                    assert_never(decision)

    def decide(self, task_type: TaskType, mode: ModeReading, statuses: Statuses, only: Engine | None = None) -> Decision:
        """Where a call would go by what was read."""
        return self._fleet.decide(task_type, mode.mode, statuses, self._ledger.now_ms(), only=only)

    async def _exchange(self, engine: Engine, turn: Turn) -> None:
        asking = turn.in_order(engine)
        if not asking and not self._returns.of(engine):
            return
        asked = Exchange(
            engine=engine,
            replicas=self._fleet.replicas(engine),
            mode=turn.mode.raw,
            epoch=turn.statuses[engine].epoch,
            gives=self._returns.take(engine),
            wants=[waiter.want() for waiter, _ in asking],
        )
        try:
            outcome = await exchanged(self._ledger, asked)
        except BaseException:
            # Redis may have done it: giving back twice does no harm, and who asks again is given what it has.
            self._returns.put_back(engine, asked.gives)
            for waiter, _ in asking:
                waiter.asked_in_vain = True
            raise
        self._returns.note_demand(engine, others_wait=outcome.others_wait)
        self._take(asking, asked, outcome)
        for place in {waiter.place for waiter, _ in asking}:
            if place[0] in outcome.refusals:
                self._note_refusal(place, outcome.refusals[place[0]], engine, turn)
        self._returns.hurry(engine)

    def _take(self, asking: Sequence[tuple[Waiter, Run]], asked: Exchange, outcome: Outcome) -> None:
        by_url = {client.url: client for client in self._fleet.clients[asked.engine]}
        for (waiter, decision), url in zip(asking, outcome.urls, strict=True):
            call_id = str(waiter.call)
            if url is not None:
                admitted = waiter.right(by_url[url], decision)
                self._flights.add(admitted)
                if waiter.admitted.done():
                    self._give_back(admitted)
                else:
                    waiter.admit(admitted)
            elif call_id in outcome.cancelled:
                waiter.fail(running.revoked(outcome.cancelled[call_id]))
        for served in {waiter.place for waiter, _ in asking if waiter.lane not in outcome.refusals}:
            self._lines[served].is_full = False
            if not self._lines[served].is_empty():
                self._changed.set()  # more wait than were asked for

    def _note_refusal(self, refused: Place, why: Refusal, engine: Engine, turn: Turn) -> None:
        line = self._lines[refused]
        match why:
            case Refusal.FULL:
                line.waits(Awaited.SLOT, self._fleet.full(engine, refused[0]), _ASK_AGAIN_S)
                line.is_full = True
            case Refusal.BREAKER:
                self._statuses.drop()
                reason = f"waits for {engine.label}: {not_up(turn.statuses[engine], self._ledger.now_ms())}"
                line.waits(Awaited.BREAKER, reason, _ASK_AGAIN_S)
            case Refusal.ENGINE:
                self._statuses.drop()
                line.waits(Awaited.TURN, "its turn", _AT_ONCE_S)
            case Refusal.MODE:
                self._mode.drop()
                line.waits(Awaited.TURN, "its turn", _AT_ONCE_S)
            case _:
                assert_never(why)

    async def _return_all(self) -> None:
        """Gives back what the last calls gave back, and what is held by calls that are being closed."""
        for engine, give in self._flights.last_gives():
            self._returns.put_back(engine, [give])
        turn = Turn((await self._mode.read()).value, (await self._statuses.read()).value)
        for engine in Engine:
            await self._exchange(engine, turn)
