"""The task boundary: a call waits here until an engine may take it, and is pinned to it from then on.

Everything that waits in this process waits in one line for each lane. One pump reads the mode and the engines' states once and
admits from the heads of the lines for as long as it can, so that waiting calls cost nothing and keep their order.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import assert_never

from aegis_workers import routing
from aegis_workers.engines.base import EngineClient, Readiness
from aegis_workers.errors import ConfigurationError, WorkerStopping
from aegis_workers.routing import Decision, Engine, EngineView, Mode, Policy, Refuse, Run, TaskType, Wait
from aegis_workers.state.cached import Cached, Reading
from aegis_workers.state.engine_status import EngineStatus, Statuses
from aegis_workers.state.mode import ModeReading

# Said with every decision that rests on a mode which could not be read again.
_STALE = "Redis does not answer: the last known mode"

# Waiting calls look again this often even if nothing told them to.
_LOOK_AGAIN_S = 1.0


class Lane(StrEnum):
    """Who waits for whom."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


def lane(task_type: TaskType) -> Lane:
    """The line in which calls of this type wait."""
    return Lane.BULK if task_type is TaskType.EXTRACTION else Lane.INTERACTIVE


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """The right to have one call in flight at `client`, and why there."""

    client: EngineClient
    mode: Mode
    reason: str

    @property
    def engine(self) -> Engine:
        """The engine that the call is pinned to."""
        return self.client.engine


@dataclass(eq=False)
class _Waiter:
    task_type: TaskType
    admitted: asyncio.Future[Admitted]


@dataclass
class _Line:
    waiters: deque[_Waiter] = field(default_factory=deque)
    reason: str = "its turn"


class Admission:
    """Decides where and when each call of this process runs."""

    def __init__(
        self,
        clients: Mapping[Engine, Sequence[EngineClient]],
        limits: Mapping[Engine, int],
        policy: Policy,
        mode: Cached[ModeReading],
        statuses: Cached[Statuses],
    ) -> None:
        self._clients = clients
        self._limits = limits
        self._policy = policy
        self._mode = mode
        self._statuses = statuses
        self._lines = {lane: _Line() for lane in Lane}
        self._in_flight: Counter[EngineClient] = Counter()
        self._changed = asyncio.Event()
        self._closed = False
        self._decided_on: Statuses | None = None
        self._decisions: dict[tuple[TaskType, Mode], Decision] = {}

    @asynccontextmanager
    async def slot(self, task_type: TaskType) -> AsyncIterator[Admitted]:
        """Waits for its turn, and gives the slot back at the end.

        Raises `ConfigurationError` where no allowed engine is configured, `WorkerStopping` when the worker stops first.
        """
        admitted = await self._wait(task_type)
        try:
            yield admitted
        finally:
            self._in_flight[admitted.client] -= 1
            self._changed.set()

    async def _wait(self, task_type: TaskType) -> Admitted:
        if self._closed:
            raise WorkerStopping("the worker is stopping")
        waiter = _Waiter(task_type, asyncio.get_running_loop().create_future())
        self._lines[lane(task_type)].waiters.append(waiter)
        self._changed.set()
        try:
            return await waiter.admitted
        except asyncio.CancelledError:
            self._return_unused(waiter)
            raise

    def _return_unused(self, waiter: _Waiter) -> None:
        """A call can be cancelled in the instant in which it was admitted: its slot must not be lost."""
        if waiter.admitted.done() and not waiter.admitted.cancelled() and waiter.admitted.exception() is None:
            self._in_flight[waiter.admitted.result().client] -= 1
            self._changed.set()

    def nudge(self) -> None:
        """Something that routing reads has changed: look again."""
        self._changed.set()

    def close(self) -> None:
        """Admit nobody any more; every call that waits ends with `WorkerStopping`."""
        self._closed = True
        for line in self._lines.values():
            while line.waiters:
                _fail(line.waiters.popleft(), WorkerStopping("the worker is stopping"))

    @property
    def in_flight(self) -> Mapping[str, int]:
        """Calls in flight of this process, by engine."""
        counts: Counter[str] = Counter()
        for client, count in self._in_flight.items():
            counts[client.engine.value] += count
        return dict(+counts)

    @property
    def waiting(self) -> Mapping[str, int]:
        """Calls of this process that wait, by what they wait for."""
        counts: Counter[str] = Counter()
        for line in self._lines.values():
            counts[line.reason] += sum(not waiter.admitted.done() for waiter in line.waiters)
        return dict(+counts)

    def waits_for(self, task_type: TaskType) -> str:
        """What calls of this type wait for now, in words."""
        return self._lines[lane(task_type)].reason

    async def run(self) -> None:
        """The pump: admits whoever can be admitted, whenever something changed. Runs until cancelled."""
        while True:
            waiting = any(line.waiters for line in self._lines.values())
            try:
                async with asyncio.timeout(_LOOK_AGAIN_S if waiting else None):
                    await self._changed.wait()
            except TimeoutError:
                self._statuses.drop()
            self._changed.clear()
            await self._pump()

    async def _pump(self) -> None:
        mode, statuses = await self._mode.read(), await self._statuses.read()
        # From here on there is no await: what was read is what every admission of this round is decided on.
        for line in self._lines.values():
            while line.waiters and self._admit_head(line, mode, statuses.value):
                line.waiters.popleft()

    def _admit_head(self, line: _Line, mode: Reading[ModeReading], statuses: Statuses) -> bool:
        """Whether the head of the line is done with: admitted, refused, or gone of itself."""
        waiter = line.waiters[0]
        if waiter.admitted.done():
            return True
        decision = self.decide(waiter.task_type, mode, statuses)
        match decision:
            case Refuse():
                _fail(waiter, ConfigurationError(decision.reason))
                return True
            case Wait():
                line.reason = decision.reason
                return False
            case Run():
                return self._take_slot(waiter, line, decision, statuses[decision.engine])
            case _:
                assert_never(decision)

    def decide(self, task_type: TaskType, mode: Reading[ModeReading], statuses: Statuses) -> Decision:
        """Where a call would go by what was read; routing is pure, so it is asked once for each reading of the statuses."""
        if statuses is not self._decided_on:
            self._decided_on, self._decisions = statuses, {}
        key = (task_type, mode.value.mode)
        if key not in self._decisions:
            views = {engine: view(engine, statuses[engine], self._clients[engine]) for engine in Engine}
            self._decisions[key] = routing.decide(*key, views, self._policy)
        decision = self._decisions[key]
        return replace(decision, reason=f"{decision.reason} ({_STALE})") if mode.stale else decision

    def _take_slot(self, waiter: _Waiter, line: _Line, decision: Run, status: EngineStatus) -> bool:
        limit = self._limits[decision.engine]
        ready = [client for client in self._clients[decision.engine] if client.url in status.ready_urls]
        free = [client for client in ready if self._in_flight[client] < limit]
        if not free:
            line.reason = f"waits for a slot: {decision.engine.label} has {limit} of {limit} calls in flight"
            return False
        client = min(free, key=lambda candidate: self._in_flight[candidate])
        self._in_flight[client] += 1
        waiter.admitted.set_result(Admitted(client=client, mode=decision.mode, reason=decision.reason))
        return True


def view(engine: Engine, status: EngineStatus, clients: Sequence[EngineClient]) -> EngineView:
    """An engine's status as routing sees it from a process that has `clients`: another may know it by other addresses."""
    ready_urls = status.ready_urls
    up = any(client.url in ready_urls for client in clients)
    unknown = bool(ready_urls) and not up
    return EngineView(
        configured=bool(clients),
        up=up,
        starting=status.state is Readiness.STARTING,
        reason=f"no replica in this worker's AEGIS_{engine.upper()}_URL is ready" if unknown else status.reason,
    )


def _fail(waiter: _Waiter, error: Exception) -> None:
    if not waiter.admitted.done():
        waiter.admitted.set_exception(error)
