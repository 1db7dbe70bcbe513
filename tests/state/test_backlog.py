import pytest
import redis
import redis.asyncio

from aegis_workers.state import backlog, held, keys, liveness
from aegis_workers.state.backlog import Backlog
from aegis_workers.state.held import Holder

pytestmark = pytest.mark.anyio


async def test_what_waits_and_what_workers_hold_is_counted_apart(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    await liveness.enlist(async_client, Holder(worker_id="w1", queue="chat"))
    client.rpush("chat", "a", "b")
    client.rpush(f"chat{held.PRIORITY_SEPARATOR}9", "c")
    client.rpush(keys.held("w1"), "d")
    client.rpush("extraction", "e")
    chat = Backlog(queue="chat", waiting=3, held=1, workers=1)
    assert await backlog.count(async_client, ["chat", "extraction"]) == [
        chat,
        Backlog(queue="extraction", waiting=1, held=0, workers=0),
    ]


async def test_a_worker_that_is_gone_holds_nothing(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    client.hset(keys.WORKER_QUEUES, "gone", "chat")
    client.set(keys.held("gone"), "1")
    assert await backlog.count(async_client, ["chat"]) == [Backlog(queue="chat", waiting=0, held=0, workers=0)]
