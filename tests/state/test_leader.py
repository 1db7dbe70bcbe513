"""One controller leads, under a token that only grows."""

import time

import pytest
import redis
import redis.asyncio

from aegis_workers.state import keys, leader
from aegis_workers.state.leader import Leadership

pytestmark = pytest.mark.anyio


async def test_one_of_two_leads_and_goes_on_leading_under_the_same_token(async_client: redis.asyncio.Redis) -> None:
    one, two = Leadership(async_client, "one"), Leadership(async_client, "two")
    token = await one.hold()
    assert token
    assert await two.hold() is None
    assert await one.hold() == token
    assert await two.hold() is None


async def test_a_second_controller_of_the_same_name_stands_by(async_client: redis.asyncio.Redis) -> None:
    assert await Leadership(async_client, "same").hold()
    assert await Leadership(async_client, "same").hold() is None


async def test_a_leader_that_resigns_is_followed_at_once_by_a_higher_token(async_client: redis.asyncio.Redis) -> None:
    one, two = Leadership(async_client, "one"), Leadership(async_client, "two")
    first = await one.hold()
    await one.release()
    second = await two.hold()
    assert first is not None
    assert second is not None
    assert second > first
    assert await one.hold() is None


async def test_the_lock_ends_by_itself_and_each_hold_renews_it(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    one, two = Leadership(async_client, "one"), Leadership(async_client, "two")
    await one.hold()
    client.pexpire(keys.CONTROLLER, 1000)
    await one.hold()
    left_s = int(client.pttl(keys.CONTROLLER)) / 1000
    assert leader.TTL_S - 5 < left_s <= leader.TTL_S
    assert leader.TTL_S + leader.HOLD_EVERY_S < 15
    client.delete(keys.CONTROLLER)  # as its end would
    assert await two.hold()


async def test_who_lost_the_lock_can_neither_hold_on_to_it_nor_give_it_back(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    late, holder = Leadership(async_client, "late"), Leadership(async_client, "holder")
    await late.hold()
    client.delete(keys.CONTROLLER)
    token = await holder.hold()
    await late.release()
    assert await holder.hold() == token
    assert await late.hold() is None


async def test_a_leader_whose_lock_ended_leads_again_under_another_token(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    one = Leadership(async_client, "one")
    before = await one.hold()
    client.delete(keys.CONTROLLER)
    after = await one.hold()
    assert before is not None
    assert after is not None
    assert after > before


async def test_a_token_exceeds_the_last_one_though_the_clock_went_back(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    ahead = int(time.time() * 1000) + 3_600_000
    client.set(keys.CONTROLLER_TOKEN, ahead)
    assert await Leadership(async_client, "one").hold() == ahead + 1


async def test_a_token_exceeds_the_last_one_though_redis_forgot_it(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    one = Leadership(async_client, "one")
    before = await one.hold()
    assert before is not None
    client.flushall()
    now = client.time()[0] * 1000
    token = await Leadership(async_client, "two").hold()
    assert token is not None
    assert token > before
    assert token >= now


async def test_a_full_redis_lets_a_leader_lead_on_and_another_take_over(
    full: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    one, two = Leadership(async_client, "one"), Leadership(async_client, "two")
    token = await one.hold()
    assert token
    assert await one.hold() == token
    full.delete(keys.CONTROLLER)
    assert await two.hold()
