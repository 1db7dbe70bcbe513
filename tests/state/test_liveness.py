from typing import Any

import pytest
import redis
import redis.asyncio

from aegis_workers.state import keys, liveness
from aegis_workers.state.held import Holder
from aegis_workers.state.liveness import MAX_GAP_S, TTL_S, Look

pytestmark = pytest.mark.anyio

JUDGE, OTHER = (Holder(worker_id=name, queue="chat") for name in ("judge", "other"))


async def look(client: redis.asyncio.Redis, *, judged_since_ms: int | None) -> Look:
    return await liveness.look(client, JUDGE, judged_since_ms=judged_since_ms)


def age(client: redis.Redis, worker_id: str, seconds: float) -> None:
    """Makes a worker silent since so many seconds ago."""
    client.zadd(keys.ALIVE, {worker_id: now_ms(client) - seconds * 1000})


def now_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return seconds * 1000 + micros // 1000


@pytest.fixture(autouse=True)
async def both_live(async_client: redis.asyncio.Redis) -> None:
    for holder in (JUDGE, OTHER):
        await liveness.enlist(async_client, holder)


async def test_a_worker_that_was_silent_for_too_long_is_declared_dead_once_and_stays_on_record_until_it_is_buried(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    age(client, "other", TTL_S + 0.1)
    seen = await look(async_client, judged_since_ms=now_ms(client) - 1000)
    assert (seen.lives, seen.in_time, seen.dead, seen.left) == (True, True, ("other",), ("other",))
    seen = await look(async_client, judged_since_ms=seen.now_ms)
    assert (seen.dead, seen.left) == ((), ("other",))
    assert await liveness.queue_of(async_client, "other") == "chat"


@pytest.mark.parametrize("silent_s", [0.0, TTL_S - 1])
async def test_a_worker_that_was_heard_of_lives(client: redis.Redis, async_client: redis.asyncio.Redis, silent_s: float) -> None:
    age(client, "other", silent_s)
    seen = await look(async_client, judged_since_ms=now_ms(client) - 1000)
    assert (seen.dead, seen.left) == ((), ())


async def test_a_judge_that_may_not_judge_declares_nobody_dead(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    age(client, "other", TTL_S + 60)
    assert (await look(async_client, judged_since_ms=None)).dead == ()


async def test_a_look_that_was_held_up_on_its_way_judges_nobody_and_says_so(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    age(client, "other", TTL_S + 60)
    seen = await look(async_client, judged_since_ms=now_ms(client) - int(MAX_GAP_S * 1000) - 100)
    assert (seen.lives, seen.in_time, seen.dead) == (True, False, ())


async def test_a_worker_that_was_declared_dead_learns_of_it_and_does_not_live_again(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    client.zrem(keys.ALIVE, "judge")
    seen = await look(async_client, judged_since_ms=now_ms(client) - 1000)
    assert seen.lives is False
    assert client.zscore(keys.ALIVE, "judge") is None


async def test_a_worker_never_declares_itself_dead(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    age(client, "judge", TTL_S + 60)
    seen = await look(async_client, judged_since_ms=now_ms(client) - 1000)
    assert (seen.lives, seen.dead) == (True, ())


async def test_workers_whose_signs_of_life_were_deleted_are_found_by_what_they_may_hold(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    client.delete(keys.ALIVE)
    await liveness.enlist(async_client, JUDGE)
    assert (await look(async_client, judged_since_ms=None)).left == ("other",)


async def test_a_worker_whose_queue_was_forgotten_says_it_again(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    client.delete(keys.WORKER_QUEUES)
    await look(async_client, judged_since_ms=None)
    found: Any = client.hgetall(keys.WORKER_QUEUES)
    assert found == {"judge": "chat"}


async def test_a_worker_that_redis_does_not_know_any_more_is_left_to_the_others(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    """It may have taken messages since Redis was emptied."""
    client.flushall()
    await liveness.enlist(async_client, JUDGE)
    assert not (await liveness.look(async_client, OTHER, judged_since_ms=None)).lives
    assert (await look(async_client, judged_since_ms=None)).left == ("other",)
