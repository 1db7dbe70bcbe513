import json

import pytest
import redis
import redis.asyncio

from aegis_workers.state import keys, workers
from aegis_workers.state.workers import WorkerReport

pytestmark = pytest.mark.anyio


def report(worker_id: str) -> WorkerReport:
    return WorkerReport(
        worker_id=worker_id,
        queue="chat",
        pid=7,
        in_flight={"vllm": 2},
        waiting={"waits for Ollama: starting": 3},
        tokens_per_s={"vllm": 41.5},
        mode="auto",
    )


async def test_every_worker_that_lives_is_listed_with_what_it_does(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    for name in ("b", "a"):
        await workers.publish(async_client, report(name))
    assert workers.read_all(client) == [report("a"), report("b")]


async def test_a_worker_that_says_nothing_any_more_is_forgotten_by_itself(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    await workers.publish(async_client, report("a"))
    assert 0 < int(client.pttl(keys.worker("a"))) <= workers.TTL_S * 1000
    assert workers.TTL_S > 3 * workers.REFRESH_S


async def test_a_worker_that_withdraws_is_gone_at_once(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    await workers.publish(async_client, report("a"))
    await workers.withdraw(async_client, "a")
    assert workers.read_all(client) == []


def test_no_workers_are_an_empty_list(client: redis.Redis) -> None:
    assert workers.read_all(client) == []


def test_what_a_newer_version_adds_is_passed_over(client: redis.Redis) -> None:
    client.set(keys.worker("a"), json.dumps({"worker_id": "a", "queue": "chat", "pid": 7, "flavour": "new"}))
    client.zadd(keys.WORKERS, {"a": 1.0})
    assert workers.read_all(client) == [WorkerReport(worker_id="a", queue="chat", pid=7)]
