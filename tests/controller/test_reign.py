"""A leader's work: done under the lock alone, and given up with it."""

import asyncio
from contextlib import suppress

import pytest
import redis.asyncio

from aegis_workers.controller import reign
from aegis_workers.controller.reign import Reign
from aegis_workers.local.process import Process
from aegis_workers.settings import Settings
from aegis_workers.state import connection, keys
from aegis_workers.state.leader import Leadership

pytestmark = pytest.mark.anyio


class Work:
    """Work that goes on until it is told otherwise."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.begun, self.ended = asyncio.Event(), asyncio.Event()
        self.dies = False

    async def __call__(self, token: int) -> None:
        self.tokens.append(token)
        self.begun.set()
        try:
            if self.dies:
                raise RuntimeError("it broke")
            await asyncio.Event().wait()
        finally:
            self.ended.set()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reign, "HOLD_EVERY_S", 0.02)


def begun(client: redis.asyncio.Redis, work: Work, name: str = "one") -> asyncio.Task[None]:
    return asyncio.create_task(Reign(Leadership(client, name), work).run())


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_one_of_two_works_and_the_other_takes_over_at_once_when_it_ends(async_client: redis.asyncio.Redis) -> None:
    first, second = Work(), Work()
    leading = begun(async_client, first)
    await first.begun.wait()
    standing_by = begun(async_client, second, "two")
    await asyncio.sleep(0.1)
    assert not second.begun.is_set()
    await ended(leading)
    assert first.ended.is_set()
    await second.begun.wait()
    assert second.tokens[0] > first.tokens[0]
    await ended(standing_by)
    assert await async_client.get(keys.CONTROLLER) is None


async def test_a_leader_that_is_told_again_while_its_work_ends_frees_the_lock_all_the_same(
    async_client: redis.asyncio.Redis,
) -> None:
    told_again, began = asyncio.Event(), asyncio.Event()

    async def slow_to_end(_: int) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await told_again.wait()

    leading = asyncio.create_task(Reign(Leadership(async_client, "one"), slow_to_end).run())
    await began.wait()
    leading.cancel()
    await asyncio.sleep(0.02)
    leading.cancel()
    await asyncio.sleep(0.02)
    told_again.set()
    await asyncio.wait({leading})
    assert leading.cancelled()
    assert await async_client.get(keys.CONTROLLER) is None


async def test_a_leader_whose_lock_another_took_ends_its_work_and_stands_by(async_client: redis.asyncio.Redis) -> None:
    work = Work()
    leading = begun(async_client, work)
    await work.begun.wait()
    await async_client.set(keys.CONTROLLER, "99:two")
    await work.ended.wait()
    assert not leading.done()
    await ended(leading)
    assert await async_client.get(keys.CONTROLLER) == "99:two"


async def test_a_leader_whose_lock_was_wiped_works_under_another_token(async_client: redis.asyncio.Redis) -> None:
    work = Work()
    leading = begun(async_client, work)
    await work.begun.wait()
    work.begun.clear()
    await async_client.flushall()
    await work.begun.wait()
    assert work.tokens[1] > work.tokens[0]
    await ended(leading)


async def test_what_the_work_dies_of_ends_the_reign_and_frees_the_lock(async_client: redis.asyncio.Redis) -> None:
    work = Work()
    work.dies = True
    with pytest.raises(RuntimeError, match="it broke"):
        await begun(async_client, work)
    assert await async_client.get(keys.CONTROLLER) is None


async def test_a_leader_that_cannot_reach_redis_for_longer_than_its_lock_lasts_ends_its_work(
    own_redis: tuple[Process, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, settings = own_redis
    monkeypatch.setattr(reign, "TTL_S", 0.3)
    async with connection.open_async(settings) as client:
        work = Work()
        leading = begun(client, work)
        await work.begun.wait()
        server.popen.kill()
        server.popen.wait()
        await work.ended.wait()
        assert not leading.done()
        await ended(leading)
