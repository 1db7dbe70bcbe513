import asyncio

import pytest
import redis
import redis.asyncio
from settling import ended

from aegis_workers.state import keys
from aegis_workers.state.answers import Answers

pytestmark = pytest.mark.anyio


async def written(client: redis.Redis, *tasks: str, gone: bool = False) -> None:
    async with asyncio.timeout(10):
        while client.exists(*(keys.answers(task) for task in tasks)) != (0 if gone else len(tasks)):  # noqa: ASYNC110 - it is in Redis
            await asyncio.sleep(0.01)


async def test_answers_outlive_their_worker_until_the_task_is_done(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    client.zadd(keys.ALIVE, {"w1": 1, "w2": 1})
    first, second = Answers(async_client, "w1"), Answers(async_client, "w2")
    writing = asyncio.create_task(first.run())
    first.keep("t", "0.0", "one")
    first.keep("t", "0.1", "two")
    await written(client, "t")
    await ended(writing)
    assert await second.earlier("t") == {"0.0": "one", "0.1": "two"}
    assert int(client.pttl(keys.answers("t"))) > 0
    writing = asyncio.create_task(second.run())
    second.forget("t")
    await written(client, "t", gone=True)
    await ended(writing)


async def test_the_first_answer_stays_and_a_dead_worker_writes_none(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    client.zadd(keys.ALIVE, {"w1": 1, "w2": 1})
    thawed, successor = Answers(async_client, "w1"), Answers(async_client, "w2")
    client.hset(keys.answers("t"), "0.0", "the first")
    client.zrem(keys.ALIVE, "w1")
    thawed.keep("t", "0.1", "late")
    await thawed._write()
    successor.keep("t", "0.0", "the second")
    successor.keep("t", "0.2", "new")
    await successor._write()
    assert client.hgetall(keys.answers("t")) == {"0.0": "the first", "0.2": "new"}


async def test_a_task_that_is_done_before_its_answers_were_written_leaves_nothing(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    client.zadd(keys.ALIVE, {"w1": 1})
    answers = Answers(async_client, "w1")
    answers.keep("t", "0.0", "one")
    answers.forget("t")
    await answers._write()
    assert not client.exists(keys.answers("t"))
