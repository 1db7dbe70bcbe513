"""A worker's looks at the others, and what becomes of the messages of those that died."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
import redis.asyncio
from settling import ended

from aegis_workers.settings import Settings
from aegis_workers.state import connection, held, keys, liveness
from aegis_workers.state.held import Holder
from aegis_workers.worker import witness
from aegis_workers.worker.holdings import Holdings
from aegis_workers.worker.reaper import Duties, Reaper

pytestmark = pytest.mark.anyio

DEAD = Holder(worker_id="dead", queue="chat")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is a twentieth of one, for whoever looks."""
    monkeypatch.setattr(liveness, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(liveness, "TTL_S", 0.3)
    monkeypatch.setattr(witness, "WATCHED_S", 0.15)


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - Redis has no event for it
            await asyncio.sleep(0.01)


class Place:
    def __init__(self, settings: Settings, worker_id: str = "living") -> None:
        self.client = connection.open_async(settings, raw=True)
        self.sync = connection.open_sync(settings, raw=True)
        self.holdings = Holdings(self.sync, Holder(worker_id=worker_id, queue="chat"))
        self.deaths: list[str] = []
        self.declared_dead = asyncio.Event()
        duties = Duties(declared_dead=self.declared_dead.set, on_death=self._note_death)
        self.reaper = Reaper(self.client, self.holdings, duties)

    async def _note_death(self, worker_id: str) -> None:
        self.deaths.append(worker_id)


@asynccontextmanager
async def living(settings: Settings, worker_id: str = "living") -> AsyncIterator[Place]:
    place = Place(settings, worker_id)
    task = asyncio.create_task(place.reaper.run())
    try:
        await eventually(lambda: place.holdings.may_take)
        yield place
    finally:
        await ended(task)
        await place.client.aclose()
        place.sync.close()


async def died(client: redis.Redis, async_client: redis.asyncio.Redis, *names: str) -> None:
    """A worker that lives, holds messages with these ids, and says nothing any more."""
    await liveness.enlist(async_client, DEAD)
    for name in names:
        client.lpush(DEAD.key, json.dumps({"headers": {"id": name}, "properties": {"delivery_tag": name}}))


def queued(client: redis.Redis) -> list[dict[str, Any]]:
    """Headers of the messages in the queue, in the order in which they will be taken."""
    return [json.loads(raw)["headers"] for raw in reversed(client.lrange("chat", 0, -1))]


async def test_what_a_dead_worker_held_goes_back_in_its_order_with_the_death_noted(
    settings: Settings, client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    await died(client, async_client, "one", "two")
    client.lpush("chat", json.dumps({"headers": {"id": "three"}, "properties": {"delivery_tag": "three"}}))
    async with living(settings) as place:
        await eventually(lambda: client.type(DEAD.key) == "string")
    assert [headers["id"] for headers in queued(client)] == ["one", "two", "three"]
    [death] = queued(client)[0]["aegis_deaths"]
    assert (death["worker"], abs(death["at"] - int(client.time()[0])) < 5) == ("dead", True)
    assert "aegis_deaths" not in queued(client)[2]
    assert place.deaths == ["dead"]
    assert client.hkeys(keys.WORKER_QUEUES) == ["living"]


async def test_a_worker_that_goes_on_saying_that_it_lives_keeps_what_it_holds(
    settings: Settings, client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    await died(client, async_client, "one")
    async with living(settings) as place, living(settings, DEAD.worker_id):
        await asyncio.sleep(1)
        assert place.deaths == []
    assert client.llen(DEAD.key) == 1


async def test_what_a_reaper_that_died_left_is_put_back_by_the_next(
    settings: Settings, client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    await died(client, async_client, "one", "two", "three")
    client.zrem(keys.ALIVE, DEAD.worker_id)
    raw = await held.bury_dead(async_client, DEAD)
    assert raw is not None
    async with living(settings):
        await eventually(lambda: client.type(DEAD.key) == "string")
    assert [headers["id"] for headers in queued(client)] == ["one", "two", "three"]


async def test_reapers_that_look_at_the_same_time_double_nothing(
    settings: Settings, client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    names = [str(number) for number in range(50)]
    await died(client, async_client, *names)
    async with living(settings, "a") as first, living(settings, "b") as second, living(settings, "c") as third:
        await eventually(lambda: client.type(DEAD.key) == "string")
        assert [headers["id"] for headers in queued(client)] == names
        assert [place.deaths for place in (first, second, third) if place.deaths] == [["dead"]]


async def test_a_worker_that_was_declared_dead_finds_out_and_takes_nothing_more(settings: Settings, client: redis.Redis) -> None:
    async with living(settings) as place:
        client.zrem(keys.ALIVE, "living")
        await asyncio.wait_for(place.declared_dead.wait(), 5)
        assert place.holdings.fenced
        assert not place.holdings.may_take
        assert client.zscore(keys.ALIVE, "living") is None


async def test_messages_with_a_priority_and_forgotten_ones_are_taken_up(settings: Settings, client: redis.Redis) -> None:
    client.lpush("chat\x06\x169", "urgent")
    async with living(settings):
        await eventually(lambda: client.lrange("chat", 0, -1) == ["urgent"])


async def test_nobody_is_declared_dead_while_redis_is_full_or_right_after(settings: Settings, client: redis.Redis) -> None:
    async with living(settings, "a") as first, living(settings, "b") as second:
        await asyncio.sleep(0.3)
        client.config_set("maxmemory", 1)
        await asyncio.sleep(3 * liveness.TTL_S)
        client.config_set("maxmemory", 0)
        await asyncio.sleep(3 * liveness.TTL_S)
        assert (first.deaths, second.deaths) == ([], [])
        assert not first.holdings.fenced
        assert not second.holdings.fenced
