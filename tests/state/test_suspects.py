import asyncio

import pytest
import redis
import redis.asyncio
from settling import begun, ended

from aegis_workers.state import keys, suspects
from aegis_workers.state.suspects import Suspect, Suspects

pytestmark = pytest.mark.anyio


async def test_one_suspect_at_a_time_is_at_work_in_all_workers(async_client: redis.asyncio.Redis) -> None:
    one, other = Suspects(async_client, "w1"), Suspects(async_client, "w2")
    order: list[str] = []

    async def run(where: Suspects, task_id: str) -> None:
        async with where.alone(task_id):
            order.append(f"{task_id} begins")
            await asyncio.sleep(0.05)
            order.append(f"{task_id} ends")

    async with asyncio.timeout(20):
        await asyncio.gather(run(one, "a"), run(one, "b"), run(other, "c"))
    assert [order[n].split()[0] == order[n + 1].split()[0] for n in (0, 2, 4)] == [True] * 3


async def test_it_is_known_what_a_dead_worker_had_at_work_alone(
    client: redis.Redis, async_client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "_ASK_AGAIN_S", 0.01)

    async def work(where: Suspects) -> None:
        async with where.alone("task", 3):
            await asyncio.Event().wait()

    holding = await begun(work(Suspects(async_client, "dead")))
    while not client.exists(keys.SUSPECT):  # noqa: ASYNC110 - what the test waits for is in Redis
        await asyncio.sleep(0.01)
    found = await suspects.of_worker(async_client, "dead")
    assert found == Suspect(worker_id="dead", task_id="task", item=3)
    assert await suspects.of_worker(async_client, "another") is None
    assert 0 < int(client.pttl(keys.SUSPECT)) <= suspects.TTL_S * 1000
    await suspects.release(async_client, found)
    following = await begun(work(Suspects(async_client, "next")))
    async with asyncio.timeout(10):
        while await suspects.of_worker(async_client, "next") is None:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)
    await suspects.release(async_client, found)  # too late: it is the next one's now
    assert client.exists(keys.SUSPECT)
    await ended(holding)
    await ended(following)
    assert not client.exists(keys.SUSPECT)
