import pytest
import redis
import redis.asyncio

from aegis_workers.state import keys
from aegis_workers.state.lease import Lease

pytestmark = pytest.mark.anyio


def lease(client: redis.asyncio.Redis) -> Lease:
    return Lease(client, keys.PROBER, ttl_s=60)


async def test_one_of_two_holds_the_lease_and_holds_on_to_it(async_client: redis.asyncio.Redis) -> None:
    one, two = lease(async_client), lease(async_client)
    assert await one.hold()
    assert not await two.hold()
    assert await one.hold()
    assert not await two.hold()


async def test_a_lease_that_was_given_back_is_free_at_once(async_client: redis.asyncio.Redis) -> None:
    one, two = lease(async_client), lease(async_client)
    await one.hold()
    await one.drop()
    assert await two.hold()


async def test_a_lease_ends_by_itself_and_each_hold_renews_it(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    one, two = lease(async_client), lease(async_client)
    await one.hold()
    client.pexpire(keys.PROBER, 1000)
    assert await one.hold()
    assert 50_000 < int(client.pttl(keys.PROBER)) <= 60_000
    client.delete(keys.PROBER)  # as its end would
    assert await two.hold()


async def test_who_lost_the_lease_can_neither_hold_on_to_it_nor_give_it_back(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    late, holder = lease(async_client), lease(async_client)
    await late.hold()
    client.delete(keys.PROBER)
    await holder.hold()
    assert not await late.hold()
    await late.drop()
    assert not await lease(async_client).hold()
    assert await holder.hold()
