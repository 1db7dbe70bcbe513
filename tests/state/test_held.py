from collections.abc import Iterator

import pytest
import redis
import redis.asyncio

from aegis_workers.settings import Settings
from aegis_workers.state import connection, held, keys, liveness
from aegis_workers.state.held import End, Holder, Settled, Settlement

pytestmark = pytest.mark.anyio

HOLDER = Holder(worker_id="host:1:a", queue="chat")


@pytest.fixture
def raw_client(settings: Settings) -> Iterator[redis.Redis]:
    with connection.open_sync(settings, raw=True) as client:
        yield client


def lives(client: redis.Redis) -> None:
    client.zadd(keys.ALIVE, {HOLDER.worker_id: 1})
    client.hset(keys.WORKER_QUEUES, HOLDER.worker_id, HOLDER.queue)


def take(client: redis.Redis) -> bytes:
    taken = client.blmove(HOLDER.queue, HOLDER.key, 1, "RIGHT", "LEFT")
    assert isinstance(taken, bytes)
    return taken


def test_what_is_done_with_is_held_no_more_and_lies_in_no_queue(raw_client: redis.Redis) -> None:
    lives(raw_client)
    raw_client.lpush("chat", b"one", b"two")
    assert held.settle(raw_client, HOLDER, Settlement(raw=take(raw_client))) is Settled.DONE
    assert held.read(raw_client, HOLDER) == []
    assert raw_client.lrange("chat", 0, -1) == [b"two"]
    assert held.settle(raw_client, HOLDER, Settlement(raw=b"one")) is Settled.NOT_HELD


@pytest.mark.parametrize(("end", "order"), [(End.FRONT, [b"two", b"again"]), (End.BACK, [b"again", b"two"])])
def test_what_goes_back_is_taken_next_or_last(raw_client: redis.Redis, end: End, order: list[bytes]) -> None:
    lives(raw_client)
    raw_client.lpush("chat", b"one", b"two")
    assert held.settle(raw_client, HOLDER, Settlement(raw=take(raw_client), end=end, again=b"again")) is Settled.DONE
    assert raw_client.lrange("chat", 0, -1) == order
    assert held.count(raw_client, HOLDER) == 0


@pytest.mark.parametrize("end", [None, End.FRONT])
def test_a_worker_that_was_declared_dead_settles_nothing(raw_client: redis.Redis, end: End | None) -> None:
    raw_client.lpush("chat", b"one")
    take(raw_client)
    assert held.settle(raw_client, HOLDER, Settlement(raw=b"one", end=end, again=b"again")) is Settled.FENCED
    assert held.read(raw_client, HOLDER) == [b"one"]
    assert raw_client.llen("chat") == 0


async def test_another_process_settles_nothing_of_a_worker_that_lives(
    raw_client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    settlement = Settlement(raw=b"one", end=End.FRONT, again=b"again")
    raw_client.lpush("chat", b"one")
    take(raw_client)
    lives(raw_client)
    assert await held.settle_for_dead(async_client, HOLDER, settlement) is Settled.FENCED
    raw_client.zrem(keys.ALIVE, HOLDER.worker_id)
    assert await held.settle_for_dead(async_client, HOLDER, settlement) is Settled.DONE
    assert await held.settle_for_dead(async_client, HOLDER, settlement) is Settled.NOT_HELD
    assert raw_client.lrange("chat", 0, -1) == [b"again"]


def test_bytes_that_are_no_text_come_back_as_they_were(raw_client: redis.Redis) -> None:
    lives(raw_client)
    raw_client.lpush("chat", b"\xff\x00\xfe")
    assert take(raw_client) == held.bury(raw_client, HOLDER) == b"\xff\x00\xfe"
    assert held.settle(raw_client, HOLDER, Settlement(raw=b"\xff\x00\xfe", end=End.FRONT, again=b"\xff\x00\xfe")) is Settled.DONE
    assert raw_client.lrange("chat", 0, -1) == [b"\xff\x00\xfe"]


def test_a_full_redis_does_not_keep_a_message_from_being_settled(raw_client: redis.Redis) -> None:
    lives(raw_client)
    raw_client.lpush("chat", b"one", b"two")
    take(raw_client)
    take(raw_client)
    raw_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            raw_client.lpush("chat", b"three")
        assert held.settle(raw_client, HOLDER, Settlement(raw=b"one")) is Settled.DONE
        assert held.settle(raw_client, HOLDER, Settlement(raw=b"two", end=End.FRONT, again=b"again")) is Settled.DONE
    finally:
        raw_client.config_set("maxmemory", 0)
    assert raw_client.lrange("chat", 0, -1) == [b"again"]


def test_a_worker_is_buried_when_it_holds_nothing_and_then_no_message_can_reach_it(raw_client: redis.Redis) -> None:
    lives(raw_client)
    raw_client.lpush("chat", b"one", b"two")
    take(raw_client)
    assert held.bury(raw_client, HOLDER) == b"one"
    held.settle(raw_client, HOLDER, Settlement(raw=b"one"))
    assert held.bury(raw_client, HOLDER) is None
    assert raw_client.zscore(keys.ALIVE, HOLDER.worker_id) is None
    assert raw_client.hlen(keys.WORKER_QUEUES) == 0
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        take(raw_client)
    assert raw_client.lrange("chat", 0, -1) == [b"two"]
    assert held.GONE_S - 5 <= int(raw_client.ttl(HOLDER.key)) <= held.GONE_S
    assert held.bury(raw_client, HOLDER) is None


def test_a_pop_that_was_waiting_when_its_worker_was_buried_gets_nothing(raw_client: redis.Redis, settings: Settings) -> None:
    lives(raw_client)
    waiting = raw_client.connection_pool.make_connection()
    waiting.send_command("BLMOVE", HOLDER.queue, HOLDER.key, "RIGHT", "LEFT", 5)  # type: ignore[no-untyped-call]
    with connection.open_sync(settings) as other:
        while not any("b" in client["flags"] for client in other.client_list()):
            pass
        assert held.bury(raw_client, HOLDER) is None
        other.lpush("chat", b"one")
        with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
            waiting.read_response()
        assert other.lrange("chat", 0, -1) == ["one"]
    waiting.disconnect()  # type: ignore[no-untyped-call]


def test_messages_with_a_priority_take_their_turn_in_the_queue(raw_client: redis.Redis) -> None:
    raw_client.lpush("chat", b"plain")
    for priority in (3, 9):
        raw_client.lpush(f"chat\x06\x16{priority}", f"{priority} a", f"{priority} b")
    assert held.gather_priorities(raw_client, "chat") == 4
    taken = [take(raw_client) for _ in range(5)]
    assert taken == [b"plain", b"3 a", b"3 b", b"9 a", b"9 b"]
    assert held.gather_priorities(raw_client, "chat") == 0


def test_a_worker_may_be_silent_for_longer_than_a_refused_sign_of_life_takes() -> None:
    assert liveness.TTL_S > liveness.MAX_GAP_S + 2 * liveness.LOOK_EVERY_S
