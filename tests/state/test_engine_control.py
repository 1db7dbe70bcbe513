"""What the leading controller makes of the engines: written under its token, and left alone by all others."""

import asyncio
import json
import time
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aegis_workers.engines.base import Readiness
from aegis_workers.routing import Engine, Lane, Mode
from aegis_workers.settings import Settings
from aegis_workers.state import connection, engine_control, engine_status, keys, memory, mode
from aegis_workers.state.engine_control import Control, Phase, Record
from aegis_workers.state.engine_status import UNKNOWN, ReplicaStatus
from aegis_workers.state.jobs import Ruling
from aegis_workers.state.leader import Leadership
from aegis_workers.state.memory import Memory
from aegis_workers.state.slots import Ended, Exchange, Give, Refusal, Replica, Slots, Want
from aegis_workers.state.switches import Source

pytestmark = pytest.mark.anyio

VLLM, OLLAMA = Engine.VLLM, Engine.OLLAMA
URL = "http://one:8000"
OPEN = Control(
    phase=Phase.READY, since=1_800_000_000.25, reason='words with "quotes" and é', driver="process", origin="mode vllm"
)
FENCED = replace(OPEN, phase=Phase.DRAINING, fenced=True, closing=True, failures=2, retry_at=1.5)


async def lead(client: redis.asyncio.Redis) -> int:
    token = await Leadership(client, "leader").hold()
    assert token is not None
    return token


def epoch(client: redis.Redis) -> str:
    return engine_status.read(client, VLLM).epoch


async def test_what_the_leader_writes_is_read_by_others_with_what_was_found(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    token = await lead(async_client)
    assert await engine_control.write(async_client, token, VLLM, FENCED, instead_of="") is Ruling.DONE
    assert engine_status.read(client, VLLM) == replace(UNKNOWN, control=FENCED, fenced=True, epoch=epoch(client))
    await engine_status.report(async_client, VLLM, [ReplicaStatus(url=URL, state=Readiness.READY)], complete=True)
    for found in (engine_status.read(client, VLLM), (await engine_status.cache(async_client).read()).value[VLLM]):
        assert (found.state, found.control, found.fenced) == (Readiness.READY, FENCED, True)
    assert await engine_control.read_all(async_client) == {
        VLLM: Record(control=FENCED, written=engine_control.encode(FENCED)),
        OLLAMA: Record(),
    }


def test_what_an_older_version_wrote_is_read() -> None:
    written = {name: fact for name, fact in json.loads(engine_control.encode(FENCED)).items() if name != "said"}
    assert engine_control.decode(json.dumps(written)) == FENCED


async def test_who_leads_no_more_writes_nothing(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    token = await lead(async_client)
    client.delete(keys.CONTROLLER)
    await lead(async_client)
    assert await engine_control.write(async_client, token, VLLM, FENCED, instead_of="") is Ruling.NOT_LEADER
    measured = Memory(free_gb=1.0, total_gb=2.0, source="a file", room_for_both=False)
    assert await memory.write(async_client, token, measured) is Ruling.NOT_LEADER
    assert not client.exists(keys.engine(VLLM), keys.MEMORY)


async def test_a_control_is_written_only_in_the_place_of_the_one_it_was_decided_on(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    token = await lead(async_client)
    assert await engine_control.write(async_client, token, VLLM, OPEN, instead_of="x") is Ruling.MOVED
    assert await engine_control.write(async_client, token, VLLM, OPEN, instead_of="") is Ruling.DONE
    assert await engine_control.write(async_client, token, VLLM, FENCED, instead_of="") is Ruling.MOVED
    assert engine_status.read(client, VLLM).control == OPEN
    assert await engine_control.write(async_client, token, VLLM, FENCED, instead_of=engine_control.encode(OPEN)) is Ruling.DONE


async def test_the_epoch_grows_with_each_change_of_the_fence_though_redis_was_wiped(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    seen = []
    for _ in range(2):
        token, written = await lead(async_client), ""
        for control in (FENCED, replace(FENCED, closing=False), OPEN, replace(OPEN, reason="other"), FENCED):
            assert await engine_control.write(async_client, token, VLLM, control, instead_of=written) is Ruling.DONE
            written = engine_control.encode(control)
            assert engine_status.read(client, VLLM).fenced is control.fenced
            seen.append(int(epoch(client)))
        client.flushall()
    assert seen == sorted(seen)
    assert len(set(seen)) == 6


async def test_a_full_redis_keeps_no_engine_from_being_fenced(
    full: redis.Redis, client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    token = await lead(async_client)
    assert await engine_control.write(async_client, token, VLLM, FENCED, instead_of="") is Ruling.DONE
    assert await memory.write(async_client, token, Memory(free_gb=None, total_gb=None, source="x", room_for_both=False))
    assert mode.write(full, Mode.VLLM, Source.CLI) is None
    assert engine_status.read(client, VLLM).fenced


async def test_what_this_version_cannot_read_is_no_control_and_can_be_replaced(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    token = await lead(async_client)
    for junk in ("junk", "[]", "1", "{}", json.dumps({"phase": "asleep", "since": 1.0}), json.dumps({"phase": "ready"})):
        client.hset(keys.engine(VLLM), keys.CONTROL_FIELD, junk)
        record = (await engine_control.read_all(async_client))[VLLM]
        assert (record.control, record.written) == (None, junk)
        assert engine_status.read(client, VLLM).control is None
        assert await engine_control.write(async_client, token, VLLM, OPEN, instead_of=record.written) is Ruling.DONE
    client.hset(keys.engine(VLLM), keys.CONTROL_FIELD, json.dumps({"phase": "ready", "since": 1.0, "flavour": "new"}))
    assert engine_status.read(client, VLLM).control == Control(phase=Phase.READY, since=1.0)


async def test_an_operator_who_chooses_a_mode_asks_anew_also_where_it_stays(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    asked: list[float] = []
    for _ in range(2):
        before = time.time()
        mode.write(client, Mode.VLLM, Source.CLI)
        found = {record.asked_at for record in (await engine_control.read_all(async_client)).values()}
        (at,) = found
        assert at is not None
        assert before - 0.01 <= at <= time.time() + 0.01
        asked.append(at)
    assert asked[0] < asked[1]
    assert engine_status.read(client, VLLM) == replace(UNKNOWN, asked_at=asked[1])


async def test_memory_is_shared_and_forgotten_when_nobody_measures(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    assert memory.read(client) is None
    measured = Memory(free_gb=61.5, total_gb=128.0, source="meminfo", room_for_both=True, why="64.7 GB of 128.0 GB")
    assert await memory.write(async_client, await lead(async_client), measured) is Ruling.DONE
    assert memory.read(client) == measured
    assert 0 < client.pttl(keys.MEMORY) <= memory.TTL_S * 1000


@dataclass
class Model:
    """The hash of one engine, and what is in flight there."""

    leads: int | None = None
    written: str = ""
    fenced: bool = False
    changes: int = 0
    asked: bool = False
    ready: bool | None = None
    in_flight: set[str] = field(default_factory=set)

    def write(self, token: int, control: Control, instead_of: str) -> Ruling:
        if token != self.leads:
            return Ruling.NOT_LEADER
        if instead_of != self.written:
            return Ruling.MOVED
        self.written = engine_control.encode(control)
        self.changes += control.fenced is not self.fenced
        self.fenced = control.fenced
        return Ruling.DONE

    def admit(self, call: str, decided_at: int) -> bool:
        """`decided_at`: how often the fence had changed when it was decided."""
        admitted = bool(self.ready) and not self.fenced and decided_at == self.changes
        if admitted:
            self.in_flight.add(call)
        return admitted


phases, names = st.sampled_from(Phase), st.sampled_from(["one", "two"])
controls = st.builds(Control, phase=phases, since=st.sampled_from([1.0, 2.5]), fenced=st.booleans(), closing=st.booleans())
steps = st.one_of(
    st.tuples(st.just("lead"), names),
    *[st.tuples(st.just("write"), names, controls, st.sampled_from(["what stands", "what stands", "another"]))] * 3,
    st.tuples(st.just("report"), st.sampled_from([True, False, None])),
    st.tuples(st.just("ask"), st.sampled_from(Mode)),
    st.tuples(st.just("decide")),
    *[st.tuples(st.just("admit"))] * 2,
    st.tuples(st.just("end")),
)


class Play:
    """The same steps on Redis and on the model; after each both hold the same."""

    def __init__(self, client: redis.asyncio.Redis, operator: redis.Redis) -> None:
        self.client = client
        self.operator = operator
        self.model = Model()
        self.slots = Slots(client, "w", trial_s=1.0)
        self.tokens = dict.fromkeys(("one", "two"), 0)
        self.decided: tuple[str, int] = ("", 0)
        self.mode: str | None = None
        self.calls = 0

    async def step(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("lead", name):
                await self.client.delete(keys.CONTROLLER)
                token = await Leadership(self.client, name).hold()
                assert token
                self.tokens[name] = self.model.leads = token
            case ("write", name, control, instead):
                instead_of = self.model.written if instead == "what stands" else instead
                found = await engine_control.write(self.client, self.tokens[name], VLLM, control, instead_of=instead_of)
                assert found is self.model.write(self.tokens[name], control, instead_of)
            case ("report", ready):
                state = Readiness.READY if ready else Readiness.UNAVAILABLE
                replicas = [] if ready is None else [ReplicaStatus(url=URL, state=state)]
                await engine_status.report(self.client, VLLM, replicas, complete=True)
                self.model.ready = ready
            case ("ask", chosen):
                mode.write(self.operator, chosen, Source.CLI)
                self.mode, self.model.asked = chosen.value, True
            case ("decide",):
                self.decided = engine_status.read(self.operator, VLLM).epoch, self.model.changes
            case ("admit",):
                await self.admit()
            case ("end",):
                await self.exchange(gives=[self.give(call) for call in self.model.in_flight])
                self.model.in_flight.clear()
        await self.check()

    def give(self, call: str) -> Give:
        return Give(call_id=call, lane=Lane.BULK, url=URL, ended=Ended.SERVED)

    async def admit(self) -> None:
        self.calls += 1
        call = str(self.calls)
        outcome = await self.exchange(wants=[Want(call_id=call, task_id=call, lane=Lane.BULK)])
        if self.model.admit(call, self.decided[1]):
            assert (outcome.urls, outcome.refusals) == ([URL], {})
        else:
            assert (outcome.urls, outcome.refusals[Lane.BULK]) == ([None], Refusal.ENGINE)

    async def exchange(self, **what: Any) -> Any:
        replica = Replica(url=URL, limit=1000, kept=0)
        return await self.slots.exchange(Exchange(engine=VLLM, replicas=[replica], mode=self.mode, epoch=self.decided[0], **what))

    async def check(self) -> None:
        model = self.model
        record = (await engine_control.read_all(self.client))[VLLM]
        assert (record.written, record.asked_at is not None) == (model.written, model.asked)
        status = engine_status.read(self.operator, VLLM)
        assert (status.fenced, status.control) == (model.fenced, engine_control.decode(model.written))
        assert bool(status.replicas) is (model.ready is not None)
        assert (status.state is Readiness.READY) is bool(model.ready)
        held: Any = await self.client.zrange(keys.slots(URL, Lane.BULK), 0, -1)
        assert set(held) == {f"w|{call}" for call in model.in_flight}


@pytest.mark.timeout(180)
@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=5, max_size=40))
def test_whatever_controllers_prober_operators_and_workers_do_the_scripts_do_what_the_model_does(
    settings: Settings, client: redis.Redis, played: list[tuple[Any, ...]]
) -> None:
    async def carry_out() -> None:
        async with connection.open_async(settings) as worker:
            await worker.flushall()
            play = Play(worker, client)
            for step in played:
                await play.step(step)

    asyncio.run(carry_out())
