"""Admission and calls as a worker has them, on engines, a mode and states that the test sets."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count

from fake_engine import Asked, FakeEngine
from redis.exceptions import ConnectionError as RedisConnectionError
from settling import ended, settled
from slot_model import LocalLedger, SlotModel

from aegis_workers.dispatch.admission import Admission
from aegis_workers.dispatch.delivery import CallId, Delivery
from aegis_workers.dispatch.fleet import Fleet, Limits
from aegis_workers.dispatch.lines import Admitted
from aegis_workers.engines.base import Readiness
from aegis_workers.routing import Engine, Mode, Policy, TaskType
from aegis_workers.state.breaker import CLOSED
from aegis_workers.state.cached import Cached
from aegis_workers.state.engine_control import Control
from aegis_workers.state.engine_status import EngineStatus, ReplicaStatus, Statuses
from aegis_workers.state.mode import ModeReading

FOR_EVER_S = 1e9


class _CallIds:
    """A call id that no other call has."""

    def __init__(self) -> None:
        self._numbers = count()

    def __call__(self, only: Engine | None = None) -> CallId:
        return Delivery(task_id=f"task {next(self._numbers)}", only=only).call()


CALL_IDS = _CallIds()
LIMITS = {Engine.VLLM: 3, Engine.OLLAMA: 2}


class Place:
    """`replicas` of each engine, all ready; `policy` and `limits` as the settings would say."""

    def __init__(
        self,
        *,
        mode: Mode = Mode.AUTO,
        policy: Policy = Policy.DEGRADE,
        replicas: Mapping[Engine, int] | None = None,
        limits: Mapping[Engine, int] = LIMITS,
        kept: int = 0,
        longest_wait_s: float | None = None,
    ) -> None:
        counts = dict.fromkeys(Engine, 1) | dict(replicas or {})
        self.engines = {e: tuple(FakeEngine(e, f"http://{e}-{n}") for n in range(counts[e])) for e in Engine}
        self.limits = limits
        self.mode = mode
        self.redis_away = False
        self.states = {client: (Readiness.READY, "") for clients in self.engines.values() for client in clients}
        self._modes = Cached(self._read_mode, ModeReading(mode=mode), max_age_s=FOR_EVER_S)
        self._statuses: Cached[Statuses] = Cached(self._read_statuses, {}, max_age_s=FOR_EVER_S)
        self.slots = SlotModel(mode=mode.value, ready=self._is_ready)
        fleet = Fleet(clients=self.engines, limits={e: Limits(limit=limits[e], kept=kept) for e in Engine}, policy=policy)
        self.ledger = LocalLedger(self.slots, away=lambda: RedisConnectionError("gone") if self.redis_away else None)
        self.controls: dict[Engine, Control] = {}
        self.alive = True
        self.admission = Admission(
            fleet, self._modes, self._statuses, self.ledger, longest_wait_s=longest_wait_s, is_alive=lambda: self.alive
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Place"]:
        """The place with its pump running."""
        pump = asyncio.create_task(self.admission.run())
        try:
            yield self
        finally:
            await ended(pump)
        assert pump.cancelled(), pump

    def set_mode(self, mode: Mode) -> None:
        self.mode = mode
        self.slots.mode = mode.value
        self.push()

    def set_state(self, engine: Engine, state: Readiness, reason: str = "") -> None:
        for client in self.engines[engine]:
            self.states[client] = (state, reason)
        self.push()

    def set_control(self, engine: Engine, control: Control) -> None:
        """What the leading controller makes of an engine from now on."""
        self.controls[engine] = control
        (self.slots.fenced.add if control.fenced else self.slots.fenced.discard)(engine)
        self.push()

    def push(self) -> None:
        """What a push of Redis sets off."""
        self._modes.drop()
        self._statuses.drop()
        self.admission.nudge()

    async def asked(self, engine: Engine) -> Asked:
        """The one request that `engine` has when nothing is left to happen."""
        await settled()
        (client,) = self.engines[engine]
        (asked,) = client.open
        return asked

    async def _read_mode(self) -> ModeReading:
        if self.redis_away:
            raise RedisConnectionError("gone")
        return ModeReading(mode=self.mode, raw=self.mode.value)

    def _is_ready(self, url: str) -> bool:
        return any(client.url == url and state is Readiness.READY for client, (state, _) in self.states.items())

    async def _read_statuses(self) -> Statuses:
        found = {engine: self._status(clients) for engine, clients in self.engines.items()}
        for engine, control in self.controls.items():
            found[engine] = replace(found[engine], control=control, fenced=control.fenced)
        return found

    def _status(self, clients: Sequence[FakeEngine]) -> EngineStatus:
        found = [
            ReplicaStatus(
                url=client.url,
                state=self.states[client][0],
                reason=self.states[client][1],
                breaker=self.slots.breakers.get(client.url, CLOSED),
            )
            for client in clients
        ]
        ranks = list(Readiness)[::-1]
        best = max(found, key=lambda replica: ranks.index(replica.state), default=None)
        if best is None:
            return EngineStatus(state=Readiness.UNAVAILABLE, reason="not probed yet")
        return EngineStatus(state=best.state, reason=best.reason, replicas=tuple(found))


@dataclass(eq=False)
class Caller:
    """A call that holds its slot until the test says that it is done."""

    task_type: TaskType
    number: int = 0
    admitted: Admitted | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] = field(init=False)

    @property
    def engine(self) -> Engine | None:
        return None if self.admitted is None else self.admitted.engine

    @property
    def waits(self) -> bool:
        return self.admitted is None and not self.task.done()

    @property
    def runs(self) -> bool:
        return self.admitted is not None and not self.task.done()


def call(
    place: Place, task_type: TaskType, number: int = 0, order: list[int] | None = None, *, only: Engine | None = None
) -> Caller:
    """A caller that has just asked for a slot; its number is put in `order` when it gets one."""
    caller = Caller(task_type, number)

    async def hold() -> None:
        async with place.admission.slot(task_type, CALL_IDS(only)) as admitted:
            caller.admitted = admitted
            if order is not None:
                order.append(number)
            await caller.done.wait()

    caller.task = asyncio.create_task(hold())
    return caller


async def given_back(place: Place) -> None:
    """Returns when no slot is on its way back."""
    await settled()
    place.admission.nudge()
    await settled()
