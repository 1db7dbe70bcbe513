"""Calls that wait for their task boundary, in order."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

from aegis_workers import telemetry
from aegis_workers.dispatch.delivery import CallId
from aegis_workers.dispatch.running import Running
from aegis_workers.engines.base import EngineClient
from aegis_workers.errors import AegisError
from aegis_workers.routing import Because, Engine, Lane, Mode, Run, TaskType, lane
from aegis_workers.state.slots import Ended, Want
from aegis_workers.telemetry import CallAdmitted

# A line is for one lane, and for one engine where its calls may go nowhere else: who waits for it holds up nobody who does not.
Place = tuple[Lane, Engine | None]


class Awaited(StrEnum):
    """What a line waits for, as a word to be counted by; its reason says it to people."""

    TURN = "turn"
    ENGINE = "engine"
    SLOT = "slot"
    BREAKER = "breaker"
    REDIS = "redis"
    LIVENESS = "liveness"


@dataclass(kw_only=True)
class Admitted:
    """The right to have one call in flight at `client`, and why there. `ended` is for its holder to say before the end.

    `closed`: the engine is to be free of calls, and this one ends before it is answered.
    """

    client: EngineClient
    mode: Mode
    reason: str
    lane: Lane
    call_id: str
    because: Because = Because.FIRST_CHOICE
    ended: Ended = Ended.OTHER
    closed: bool = False
    _limit: asyncio.Timeout | None = None

    def limit(self, timeout_s: float) -> asyncio.Timeout:
        """The time that the request may take; it ends at once when the call is closed."""
        self._limit = asyncio.timeout(0.0 if self.closed else timeout_s)
        return self._limit

    def close(self) -> None:
        """Ends the request: the engine is to be free of calls."""
        self.closed = True
        if self._limit is not None:
            with suppress(RuntimeError):  # it has ended of itself
                self._limit.reschedule(0.0)

    @property
    def engine(self) -> Engine:
        """The engine that the call is pinned to."""
        return self.client.engine


@dataclass(eq=False, kw_only=True)
class Waiter:
    """One call that waits. `since` is monotonic; `asked_in_vain`: it was asked for, and Redis's answer was lost."""

    task_type: TaskType
    call: CallId
    task: Running
    since: float
    admitted: asyncio.Future[Admitted]
    asked_in_vain: bool = False

    @property
    def lane(self) -> Lane:
        """The lane of its line."""
        return lane(self.task_type)

    @property
    def place(self) -> "Place":
        """The line that it waits in."""
        return self.lane, self.call.only

    def want(self) -> Want:
        """What it asks of Redis."""
        again = self.call.again or self.asked_in_vain
        begun = self.task.has_begun
        return Want(call_id=str(self.call), task_id=self.call.task_id, lane=self.lane, again=again, begun=begun)

    def right(self, client: EngineClient, decision: Run) -> Admitted:
        """What it gets with a slot at `client`."""
        return Admitted(
            client=client,
            mode=decision.mode,
            reason=decision.reason,
            because=decision.because,
            lane=self.lane,
            call_id=str(self.call),
        )

    def admit(self, admitted: Admitted) -> None:
        """End its waiting well. How long it waited is told of."""
        self.admitted.set_result(admitted)
        waited_s = time.monotonic() - self.since
        telemetry.tell(
            CallAdmitted(task_type=self.task_type, engine=admitted.engine, because=admitted.because, waited_s=waited_s)
        )

    def fail(self, error: AegisError) -> None:
        """End its waiting, unless it is gone of itself."""
        if not self.admitted.done():
            self.admitted.set_exception(error)


@dataclass
class Line:
    """Who waits in one place, what the first of them waits for, and how long nobody need look again unless something changes.

    `is_full`: the engine had no slot for all that were asked for.
    """

    waiters: deque[Waiter] = field(default_factory=deque)
    reason: str = "its turn"
    look_again_s: float = 1.0
    awaited: Awaited = Awaited.TURN
    is_full: bool = False

    def waits(self, awaited: Awaited, reason: str, look_again_s: float) -> None:
        """Note what the line waits for."""
        self.awaited, self.reason, self.look_again_s, self.is_full = awaited, reason, look_again_s, False

    @property
    def waits_for_engine(self) -> bool:
        """Whether no engine is up for it."""
        return self.awaited is Awaited.ENGINE

    def head(self, count: int | None = None) -> Iterator[Waiter]:
        """Those who wait, the first first; all, or `count` of them."""
        return islice((waiter for waiter in self.waiters if not waiter.admitted.done()), count)

    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return next(self.head(1), None) is None

    def drop_ended(self) -> None:
        """Forget those at the head who wait no more."""
        while self.waiters and self.waiters[0].admitted.done():
            self.waiters.popleft()

    def fail_all(self, error: AegisError) -> None:
        """End the waiting of everybody."""
        while self.waiters:
            self.waiters.popleft().fail(error)

    def fail_older(self, than: float, error: AegisError) -> None:
        """End the waiting of those who came before `than`, which is monotonic."""
        self.drop_ended()
        while self.waiters and self.waiters[0].since < than:
            self.waiters.popleft().fail(error)
            self.drop_ended()
