"""One leader's passes over the engines: each takes a snapshot, and carries out the steps that the plan makes of it.

Nothing is remembered that could not be read again: a pass may end anywhere, and another leader's goes on from there.
"""

import asyncio
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Final

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from aegis_workers.controller import wants
from aegis_workers.controller.account import MOVING, Account
from aegis_workers.controller.case import Effect, Step
from aegis_workers.controller.driver import NotNow
from aegis_workers.controller.equipment import Equipment
from aegis_workers.controller.hands import Hands
from aegis_workers.controller.plan import plan
from aegis_workers.controller.senses import Senses, Sight
from aegis_workers.controller.snapshot import Snapshot
from aegis_workers.engines.base import Readiness
from aegis_workers.jobs.steps import Deposed
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import connection, engine_control, engine_status, keys, memory, slots, switches
from aegis_workers.state.engine_control import Phase
from aegis_workers.state.engine_status import ReplicaStatus
from aegis_workers.state.jobs import Ruling
from aegis_workers.state.push import Push

log = structlog.get_logger(__name__)

# How long the next pass is waited for: after one that changed a phase, while an engine is on its way, and where nothing moves.
# A write of the mode key ends the wait.
QUICK_S: Final = 0.02
MOVING_S: Final = 0.1
IDLE_S: Final = 1.0
# An effect begins this long after the record was written under the token at most: later, another may lead.
FRESH_S: Final = 2.0
# What does not listen is told again this often.
RELEASE_EVERY_S: Final = 1.0
_SHARE_MEMORY_EVERY_S: Final = 5.0
_COMING: Final = frozenset({Phase.STARTING, Phase.WARMING})


class Engines:
    """Looks after the engines under one token."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings, token: int, equipment: Equipment) -> None:
        self._client = client
        self._token = token
        self._senses = Senses(client, settings, equipment)
        self._clients = equipment.clients
        self._hands = Hands(equipment.drivers, equipment.clients)
        self._account = Account()
        self._push = Push(client, (keys.MODE,), self._on_push)
        self._woken = asyncio.Event()
        self._released_at: dict[Engine, float] = {}
        self._shared_at = float("-inf")
        self._says = ""

    async def run(self) -> None:
        """Passes until cancelled; returns where another controller leads."""
        listening = asyncio.ensure_future(self._push.run())
        try:
            while True:
                await self._pause(await self._pass())
        except Deposed:
            log.warning("controller.deposed", token=self._token)
        finally:
            await connection.ended(listening)
            await self._hands.aclose()

    def _on_push(self, key: str | None) -> None:
        if key == keys.MODE:
            self._senses.note_mode_written()
        self._woken.set()

    async def _pause(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()

    async def _pass(self) -> float:
        """One pass; how long to wait for the next."""
        try:
            wait_s = await self.step()
        except (RedisError, OSError) as error:  # a time limit is one of the latter
            self._say(repr(error))
            return connection.RETRY_S
        self._say("")
        return wait_s

    def _say(self, trouble: str) -> None:
        """Once, and not in every pass."""
        if trouble and trouble != self._says:
            log.warning("engines.wait", error=trouble)
        self._says = trouble

    async def step(self) -> float:
        """One pass; how long the next may wait. Raises `Deposed`, `RedisError`, and `OSError` where something does not answer."""
        sight = await self._senses.look({engine: self._hands.felt(engine) for engine in Engine})
        await self._share_memory(sight.snapshot)
        steps = plan(sight.snapshot)
        for engine, step in steps.items():
            await self._take(engine, step, sight)
        wait_s = self._next_in(sight.snapshot, steps)
        course = self._account.settle(sight.snapshot.now) if wait_s == IDLE_S else None
        if course is not None:
            await switches.finish(self._client, course)
        return wait_s

    def _next_in(self, snapshot: Snapshot, steps: Mapping[Engine, Step]) -> float:
        if any(step.enters is not None for step in steps.values()):
            return QUICK_S
        known = {engine: facts.control for engine, facts in snapshot.engines.items()}
        known |= {engine: step.after for engine, step in steps.items()}
        controls = [control for control in known.values() if control is not None]
        if any(control.phase in MOVING or control.began is not None for control in controls):
            return MOVING_S
        return IDLE_S

    async def _take(self, engine: Engine, step: Step, sight: Sight) -> None:
        """Write the record, and carry out the effect once it is written."""
        if self._was_just_told(engine, step):
            return
        found = await self._probe(engine) if step.enters is Phase.READY else []
        written_at = await self._write(engine, step, sight.written[engine])
        if written_at is None:
            return
        await self._share_readiness(engine, found)
        self._account.note(engine, step, sight.snapshot.now)
        if step.enters is not None and step.enters not in _COMING:
            self._hands.forget(engine)
        if step.effect is None:
            return
        confirm = functools.partial(self._confirm, engine, step, written_at)
        try:
            await confirm()
            await self._hands.do(engine, step.effect, confirm)
        except NotNow as error:
            log.info("engine.left_alone", engine=engine.value, reason=str(error))

    async def _confirm(self, engine: Engine, step: Step, written_at: float) -> None:
        """Raises `Deposed` and `NotNow` where this controller may not act any more by what it wrote then."""
        if time.monotonic() - written_at <= FRESH_S:
            return
        again_at = await self._write(engine, step, engine_control.encode(step.after))
        if again_at is None:
            raise NotNow("the record was changed meanwhile")
        if time.monotonic() - again_at > FRESH_S:
            raise NotNow(f"Redis took more than {FRESH_S:g} s to say who leads")

    def _was_just_told(self, engine: Engine, step: Step) -> bool:
        """Whether the step would only say once more what the engine was told a moment ago."""
        if step.effect is not Effect.RELEASE:
            self._released_at.pop(engine, None)
            return False
        now = time.monotonic()
        if step.after == step.before and now - self._released_at.get(engine, float("-inf")) < RELEASE_EVERY_S:
            return True
        self._released_at[engine] = now
        return False

    async def _write(self, engine: Engine, step: Step, instead_of: str) -> float | None:
        """When the record was asked to be written, by the monotonic clock; None where another one stands there."""
        asked_at = time.monotonic()
        ruling = await engine_control.write(self._client, self._token, engine, step.after, instead_of=instead_of)
        if ruling is Ruling.NOT_LEADER:
            raise Deposed
        return asked_at if ruling is Ruling.DONE else None

    async def _probe(self, engine: Engine) -> Sequence[ReplicaStatus]:
        clients = self._clients[engine]
        probes = await asyncio.gather(*(client.probe() for client in clients))
        return [engine_status.observed(client.url, probe) for client, probe in zip(clients, probes, strict=True)]

    async def _share_readiness(self, engine: Engine, found: Sequence[ReplicaStatus]) -> None:
        """So that calls flow at once, and not when a worker looks at the engine the next time."""
        if not found:
            return
        await engine_status.report(self._client, engine, found, complete=False)
        for replica in found:
            if replica.state is Readiness.READY:
                await slots.close_breaker(self._client, engine, replica.url)

    async def _share_memory(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if now - self._shared_at < _SHARE_MEMORY_EVERY_S:
            return
        room, found = wants.room(snapshot), snapshot.memory
        shared = memory.Memory(
            free_gb=found.free_gb,
            total_gb=found.total_gb,
            source=found.source,
            room_for_both=room.both,
            why=found.why or room.why,
        )
        if await memory.write(self._client, self._token, shared) is Ruling.NOT_LEADER:
            raise Deposed
        self._shared_at = now
