"""The scripts of slots and breakers on a real Redis, held against the model."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from slot_model import TRIAL_MS, SlotModel

from aegis_workers.routing import Engine, Lane
from aegis_workers.settings import Settings
from aegis_workers.state import breaker, connection, keys, slots
from aegis_workers.state.breaker import Breaker
from aegis_workers.state.cancels import Cancel
from aegis_workers.state.slots import LEASE_S, Ended, Exchange, Give, Outcome, Refusal, Replica, Slots, Want

pytestmark = pytest.mark.anyio

VLLM = Engine.VLLM
BULK, INTERACTIVE = Lane.BULK, Lane.INTERACTIVE
ONE, TWO = "http://one", "http://two"


class Clocked(Slots):
    """Slots on a clock that the test sets."""

    time_ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.time_ms


def worker(client: redis.asyncio.Redis, name: str = "w1") -> Clocked:
    return Clocked(client, name, trial_s=TRIAL_MS / 1000)


def set_ready(client: redis.Redis, *urls: str) -> None:
    for url in urls:
        client.hset(keys.engine(VLLM), f"replica:{url}", json.dumps({"state": "ready"}))


def asked(
    *wants: Want, gives: Sequence[Give] = (), limit: int = 2, kept: int = 0, urls: Sequence[str] = (ONE,), **other: Any
) -> Exchange:
    replicas = [Replica(url=url, limit=limit, kept=kept) for url in urls]
    return Exchange(engine=VLLM, replicas=replicas, **{"mode": None, "epoch": "", "gives": gives, "wants": wants} | other)


def want(call: str, lane: Lane = BULK, *, again: bool = False) -> Want:
    return Want(call_id=call, task_id=call, lane=lane, again=again)


def give(call: str, ended: Ended = Ended.SERVED, lane: Lane = BULK, url: str = ONE) -> Give:
    return Give(call_id=call, lane=lane, url=url, ended=ended)


async def test_calls_of_all_workers_together_keep_to_the_limit(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    set_ready(client, ONE)
    first, second = worker(async_client, "w1"), worker(async_client, "w2")
    assert (await first.exchange(asked(want("a")))).urls == [ONE]
    outcome = await second.exchange(asked(want("b"), want("c")))
    assert (outcome.urls, outcome.refusals) == ([ONE, None], {BULK: Refusal.FULL})
    await first.exchange(asked(gives=[give("a")]))
    assert (await second.exchange(asked(want("c")))).urls == [ONE]


async def test_bulk_leaves_the_kept_slots_to_the_interactive_lane(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    set_ready(client, ONE)
    one = worker(async_client)
    outcome = await one.exchange(asked(want("chat 1", INTERACTIVE), *(want(f"bulk {n}") for n in range(4)), limit=4, kept=1))
    assert outcome.urls == [ONE, ONE, ONE, ONE, None]
    outcome = await worker(async_client, "w2").exchange(asked(want("chat 2", INTERACTIVE), limit=4, kept=1))
    assert outcome.refusals == {INTERACTIVE: Refusal.FULL}


@pytest.mark.parametrize(("raw", "believed"), [("ollama", "vllm"), ("vllm", None), (None, "vllm")])
async def test_a_call_that_was_decided_on_another_mode_is_not_admitted(
    client: redis.Redis, async_client: redis.asyncio.Redis, raw: str | None, believed: str | None
) -> None:
    set_ready(client, ONE)
    if raw is not None:
        client.set(keys.MODE, raw)
    outcome = await worker(async_client).exchange(asked(want("a"), mode=believed))
    assert (outcome.urls, outcome.refusals[BULK]) == ([None], Refusal.MODE)
    assert (await worker(async_client).exchange(asked(want("a"), mode=raw))).urls == [ONE]


async def test_a_mode_key_of_bytes_that_are_no_text_stops_nobody(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    set_ready(client, ONE)
    client.set(keys.MODE, b"\xff\xfe")
    read = await async_client.get(keys.MODE)
    assert (await worker(async_client).exchange(asked(want("a"), mode=read))).urls == [ONE]


async def test_a_call_that_was_decided_on_another_epoch_is_not_admitted(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    set_ready(client, ONE)
    client.hset(keys.engine(VLLM), "epoch", "7")
    assert (await worker(async_client).exchange(asked(want("a"), epoch="6"))).refusals[BULK] is Refusal.ENGINE
    assert (await worker(async_client).exchange(asked(want("a"), epoch="7"))).urls == [ONE]


async def test_a_replica_that_is_not_ready_by_the_record_gets_no_call(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    client.hset(keys.engine(VLLM), f"replica:{ONE}", json.dumps({"state": "starting"}))
    assert (await worker(async_client).exchange(asked(want("a")))).refusals == {BULK: Refusal.ENGINE}
    set_ready(client, TWO)
    assert (await worker(async_client).exchange(asked(want("a"), urls=(ONE, TWO)))).urls == [TWO]


async def test_the_replica_with_the_fewest_calls_of_all_workers_is_next(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    set_ready(client, ONE, TWO)
    await worker(async_client, "w1").exchange(asked(want("a"), urls=(ONE,), limit=5))
    outcome = await worker(async_client, "w2").exchange(asked(*(want(n) for n in "bcd"), urls=(ONE, TWO), limit=5))
    assert outcome.urls == [TWO, ONE, TWO]


async def test_a_call_that_is_delivered_again_takes_its_own_lease_over(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    set_ready(client, ONE)
    await worker(async_client, "dead").exchange(asked(want("a"), want("b")))
    successor = worker(async_client, "successor")
    assert (await successor.exchange(asked(want("a")))).urls == [None]
    assert (await successor.exchange(asked(want("a", again=True)))).urls == [ONE]
    assert set(client.zrange(keys.slots(ONE, BULK), 0, -1)) == {"dead|b", "successor|a"}


async def test_a_worker_that_thaws_cannot_give_back_the_slot_of_its_successor(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    set_ready(client, ONE)
    frozen = worker(async_client, "frozen")
    await frozen.exchange(asked(want("a")))
    await worker(async_client, "successor").exchange(asked(want("a", again=True)))
    await frozen.exchange(asked(gives=[give("a")]))
    assert client.zrange(keys.slots(ONE, BULK), 0, -1) == ["successor|a"]


async def test_who_waits_gets_the_next_slot_and_is_told_of_it(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    set_ready(client, ONE)
    busy, waiting = worker(async_client, "busy"), worker(async_client, "waiting")
    await busy.exchange(asked(want("a"), want("b")))
    await waiting.exchange(asked(want("c")))
    assert client.get(keys.freed(VLLM)) is None
    assert (await busy.exchange(asked())).others_wait
    outcome = await busy.exchange(asked(want("d"), gives=[give("a")]))
    assert (outcome.urls, outcome.refusals) == ([None], {BULK: Refusal.FULL})
    assert client.get(keys.freed(VLLM)) is not None
    assert (await waiting.exchange(asked(want("c")))).urls == [ONE]
    outcome = await busy.exchange(asked(want("d"), gives=[give("b")]))
    assert (outcome.urls, outcome.others_wait) == ([ONE], False)


async def test_bulk_takes_no_slot_while_a_chat_of_another_worker_waits(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    set_ready(client, ONE)
    extraction, chat = worker(async_client, "extraction"), worker(async_client, "chat")
    await extraction.exchange(asked(want("a"), want("b")))
    await chat.exchange(asked(want("c", INTERACTIVE)))
    assert (await extraction.exchange(asked(want("d"), gives=[give("a"), give("b")]))).urls == [None]
    assert (await chat.exchange(asked(want("c", INTERACTIVE)))).urls == [ONE]
    assert (await extraction.exchange(asked(want("d")))).urls == [ONE]


async def test_who_waits_is_waited_for_no_longer_than_it_says_so(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    set_ready(client, ONE)
    extraction, chat = worker(async_client, "extraction"), worker(async_client, "chat")
    await extraction.exchange(asked(want("a"), want("b")))
    await chat.exchange(asked(want("c", INTERACTIVE)))
    extraction.time_ms += 1001
    assert (await extraction.exchange(asked(want("d"), gives=[give("a")]))).urls == [ONE]


async def test_a_call_whose_task_was_revoked_is_not_admitted(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    set_ready(client, ONE)
    client.set(keys.cancelled("b"), "1")
    outcome = await worker(async_client).exchange(asked(want("a"), want("b"), want("c")))
    assert outcome.urls == [ONE, None, ONE]
    assert outcome.cancelled == {"b": Cancel.REVOKE}
    assert not outcome.refusals


@pytest.mark.parametrize(
    ("mark", "begun", "ends"),
    [("revoke", False, True), ("terminate", False, True), ("revoke", True, False), ("terminate", True, True)],
)
async def test_a_task_that_has_begun_is_ended_by_terminate_alone(
    client: redis.Redis, async_client: redis.asyncio.Redis, mark: str, *, begun: bool, ends: bool
) -> None:
    set_ready(client, ONE)
    client.set(keys.cancelled("a"), mark)
    outcome = await worker(async_client).exchange(asked(replace(want("a"), begun=begun)))
    assert outcome.cancelled == ({"a": Cancel(mark)} if ends else {})
    assert outcome.urls == [None if ends else ONE]


async def test_leases_end_by_themselves_and_holding_on_to_them_renews_them(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    set_ready(client, ONE)
    holder = Slots(async_client, "w1", trial_s=1)
    await holder.exchange(asked(want("a"), want("b")))
    assert await slots.expire(async_client, URLS) == 0
    client.zadd(keys.slots(ONE, BULK), {"w1|a": 1, "w1|b": 1})
    await holder.refresh({(ONE, BULK): ["a"]})
    assert await slots.expire(async_client, URLS) == 1
    found: Any = client.zrange(keys.slots(ONE, BULK), 0, -1, withscores=True)
    ((member, ending),) = found
    assert member == "w1|a"
    assert abs(ending - holder.now_ms() - LEASE_S * 1000) < 1000


async def test_a_lease_that_was_taken_for_ended_is_counted_again_while_its_call_runs(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    holder = Slots(async_client, "w1", trial_s=1)
    await holder.refresh({(ONE, INTERACTIVE): [str(number) for number in range(2500)]})
    assert client.zcard(keys.slots(ONE, INTERACTIVE)) == 2500


async def test_a_dead_worker_gives_back_its_slots_and_its_trial(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    set_ready(client, ONE)
    dead, alive = worker(async_client, "dead"), worker(async_client, "alive")
    await open_breaker(dead)
    dead.time_ms += 2000
    await dead.exchange(asked(want("trial")))
    await alive.exchange(asked(want("x", INTERACTIVE), urls=(TWO,)))
    set_ready(client, TWO)
    await alive.exchange(asked(want("y", INTERACTIVE), urls=(TWO,)))
    assert found_breaker(client).trial == "dead|trial"
    assert await slots.forget(async_client, "dead", URLS) == 1
    assert found_breaker(client).trial == ""
    assert client.zrange(keys.slots(TWO, INTERACTIVE), 0, -1) == ["alive|y"]


async def test_a_fenced_engine_gives_no_slot_and_takes_back_what_it_gave(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    set_ready(client, ONE)
    one = worker(async_client)
    assert (await one.exchange(asked(want("a")))).urls == [ONE]
    client.hset(keys.engine(VLLM), keys.FENCE_FIELD, "1")
    refused = await one.exchange(asked(want("b"), want("a", again=True)))
    assert (refused.urls, refused.refusals[BULK]) == ([None, None], Refusal.ENGINE)
    await one.exchange(asked(gives=[give("a")]))
    assert await slots.count(async_client, URLS) == 0


async def test_the_calls_at_an_engine_are_counted_over_all_workers_but_for_leases_that_ended_long_ago(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    await Slots(async_client, "w1", trial_s=1).refresh({(ONE, BULK): ["a", "b"], (TWO, INTERACTIVE): ["c"]})
    await Slots(async_client, "w2", trial_s=1).refresh({(ONE, INTERACTIVE): ["a"]})
    assert await slots.count(async_client, URLS) == 4
    now_ms = client.time()[0] * 1000
    client.zadd(keys.slots(ONE, BULK), {"w1|a": now_ms - 1000, "w1|b": now_ms - 60_000})
    assert await slots.count(async_client, URLS) == 3
    assert await slots.count(async_client, ()) == 0


async def open_breaker(holder: Slots) -> None:
    for number in range(breaker.FAILURES_TO_OPEN):
        await holder.exchange(asked(gives=[give(f"f{number}", Ended.FAILED)]))


def found_breaker(client: redis.Redis) -> Breaker:
    stored: Any = client.hget(keys.engine(VLLM), keys.breaker_field(ONE))
    return breaker.decode(stored)


async def test_one_trial_decides_for_all_workers_whether_a_breaker_closes(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    set_ready(client, ONE)
    first, second = worker(async_client, "w1"), worker(async_client, "w2")
    await open_breaker(first)
    assert (await second.exchange(asked(want("a")))).refusals == {BULK: Refusal.BREAKER}
    first.time_ms = second.time_ms = first.time_ms + 1000
    assert (await first.exchange(asked(want("a")))).urls == [ONE]
    assert (await second.exchange(asked(want("b")))).refusals == {BULK: Refusal.BREAKER}
    await first.exchange(asked(gives=[give("a")]))
    assert found_breaker(client) == breaker.CLOSED
    assert (await second.exchange(asked(want("b")))).urls == [ONE]


async def test_a_breaker_stays_open_longer_with_each_trial_that_fails_up_to_a_cap(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    set_ready(client, ONE)
    one = worker(async_client)
    await open_breaker(one)
    open_s = []
    for number in range(8):
        found = found_breaker(client)
        open_s.append((found.until_ms - one.time_ms) / 1000)
        one.time_ms = found.until_ms
        assert (await one.exchange(asked(want(f"t{number}")))).urls == [ONE]
        await one.exchange(asked(gives=[give(f"t{number}", Ended.FAILED)]))
    assert open_s == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_a_call_that_fails_again_and_again_opens_no_breaker(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    set_ready(client, ONE)
    for _ in range(3 * breaker.FAILURES_TO_OPEN):
        await worker(async_client).exchange(asked(gives=[give("the same", Ended.FAILED)]))
    assert (await worker(async_client).exchange(asked(want("a")))).urls == [ONE]


async def test_a_replica_that_proved_itself_lets_calls_through_at_once(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    set_ready(client, ONE)
    await open_breaker(worker(async_client))
    await slots.close_breaker(async_client, VLLM, ONE)
    assert (await worker(async_client).exchange(asked(want("a")))).urls == [ONE]


WORKERS, CALLS, URLS = ("w1", "w2", "w3"), tuple("abcdefgh"), (ONE, TWO)
calls, lanes, urls = st.sampled_from(CALLS), st.sampled_from(Lane), st.sampled_from(URLS)
wanted = st.builds(want, calls, lanes, again=st.booleans())
given_back = st.builds(give, calls, st.sampled_from(Ended), lanes, urls)
wants = st.lists(wanted, max_size=5, unique_by=lambda want: want.call_id)
exchanges = st.builds(
    asked,
    gives=st.lists(given_back, max_size=4),
    limit=st.just(3),
    kept=st.integers(0, 1),
    urls=st.just(URLS),
    mode=st.sampled_from(["vllm", "vllm", "vllm", None]),
    epoch=st.sampled_from(["", "", "", "2"]),
)
steps = st.one_of(
    *[st.tuples(st.just("exchange"), st.sampled_from(WORKERS), exchanges, wants)] * 3,
    st.tuples(st.just("time"), st.sampled_from([200, 700, 1500, 40_000, 200_000])),
    st.tuples(st.just("ready"), urls, st.booleans()),
    st.tuples(st.just("fence"), st.booleans()),
    st.tuples(st.just("forget"), st.sampled_from(WORKERS)),
    st.tuples(st.just("revoke"), calls),
)


class Play:
    """The same steps on Redis and on the model; after each both hold the same."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client
        self.unready: set[str] = set()
        self.model = SlotModel(mode="vllm", ready=lambda url: url not in self.unready)
        self.workers = {name: worker(client, name) for name in WORKERS}

    async def begin(self) -> None:
        await self.client.flushall()
        await self.client.set(keys.MODE, "vllm")
        for url in URLS:
            await self.set_ready(url, ready=True)

    async def set_ready(self, url: str, *, ready: bool) -> None:
        (self.unready.discard if ready else self.unready.add)(url)
        state = json.dumps({"state": "ready" if ready else "unavailable"})
        await self.client.hset(keys.engine(VLLM), f"replica:{url}", state)

    async def step(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("exchange", name, exchange, wants):
                await self.exchange(name, replace(exchange, wants=self.sensible(name, wants)))
            case ("time", ms):
                await self.pass_time(ms)
            case ("ready", url, ready):
                await self.set_ready(url, ready=ready)
            case ("fence", True):
                self.model.fenced.add(VLLM)
                await self.client.hset(keys.engine(VLLM), keys.FENCE_FIELD, "1")
            case ("fence", False):
                self.model.fenced.discard(VLLM)
                await self.client.hdel(keys.engine(VLLM), keys.FENCE_FIELD)
            case ("forget", name):
                assert await slots.forget(self.client, name, URLS) == self.model.forget(name)
            case ("revoke", call):
                self.model.revoked.add(call)
                await self.client.set(keys.cancelled(call), "1")
        await self.check()

    def sensible(self, name: str, wants: list[Want]) -> list[Want]:
        """Interactive ones first; and no worker asks anew for a call that it has in flight."""
        held = {member for leases in self.model.leases.values() for member in leases}
        ordered = sorted(wants, key=lambda want: want.lane, reverse=True)
        return [want for want in ordered if want.again or f"{name}|{want.call_id}" not in held]

    async def exchange(self, name: str, exchange: Exchange) -> None:
        found: Outcome = await self.workers[name].exchange(exchange)
        expected = self.model.exchange(name, exchange)
        assert (found.urls, found.cancelled) == (expected.urls, expected.cancelled)
        assert (found.refusals, found.others_wait) == (expected.refusals, expected.others_wait)
        for replica in exchange.replicas:
            assert self.model.count(replica.url) <= replica.limit

    async def pass_time(self, ms: int) -> None:
        self.model.now_ms += ms
        for one in self.workers.values():
            one.time_ms = self.model.now_ms
        # The marks that Redis's own clock would have ended.
        for (engine, lane), (_, till) in list(self.model.demand.items()):
            if till <= self.model.now_ms:
                del self.model.demand[engine, lane]
                await self.client.delete(keys.demand(engine, lane))

    async def check(self) -> None:
        for url in URLS:
            for lane in Lane:
                found: Any = await self.client.zrange(keys.slots(url, lane), 0, -1, withscores=True)
                assert dict(found) == self.model.leases.get((url, lane), {})
            stored: Any = await self.client.hget(keys.engine(VLLM), keys.breaker_field(url))
            assert breaker.decode(stored) == self.model.breakers.get(url, breaker.CLOSED)


@pytest.mark.timeout(180)
@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=5, max_size=40))
def test_whatever_is_asked_the_scripts_do_what_the_model_does(settings: Settings, played: list[tuple[Any, ...]]) -> None:
    async def carry_out() -> None:
        async with connection.open_async(settings) as client:
            play = Play(client)
            await play.begin()
            for step in played:
                await play.step(step)

    asyncio.run(carry_out())
