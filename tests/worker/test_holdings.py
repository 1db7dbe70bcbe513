"""What a process knows of the messages that it holds, and what becomes of those that it forgot."""

import json
import time
from collections.abc import Iterator

import pytest
import redis

from aegis_workers.local import process
from aegis_workers.local.process import Process
from aegis_workers.settings import Settings
from aegis_workers.state import connection, envelope, keys, liveness
from aegis_workers.state.held import End, Holder
from aegis_workers.worker.holdings import Holdings

HOLDER = Holder(worker_id="host:1:a", queue="chat")


class Message:
    """Stands for Celery's message and its request."""


@pytest.fixture
def holdings(settings: Settings) -> Iterator[Holdings]:
    with opened(settings) as made:
        yield made


class opened:  # noqa: N801 - a context manager
    def __init__(self, settings: Settings) -> None:
        self.client = connection.open_sync(settings, raw=True)

    def __enter__(self) -> Holdings:
        self.client.zadd(keys.ALIVE, {HOLDER.worker_id: 1})
        self.client.hset(keys.WORKER_QUEUES, HOLDER.worker_id, HOLDER.queue)
        made = Holdings(self.client, HOLDER)
        made.open()
        return made

    def __exit__(self, *_: object) -> None:
        self.client.close()


def enqueue(client: redis.Redis, *names: str) -> None:
    for name in names:
        client.lpush("chat", json.dumps({"body": "", "headers": {"id": name}, "properties": {"delivery_tag": name}}))


def pop(client: redis.Redis) -> bytes:
    raw = client.lmove("chat", HOLDER.key, "RIGHT", "LEFT")
    assert isinstance(raw, str)
    return raw.encode()


def take(holdings: Holdings, client: redis.Redis) -> tuple[str, Message]:
    found, message = holdings.take(pop(client)), Message()
    assert found is not None
    tag = found["properties"]["delivery_tag"]
    holdings.track(tag, message)
    return tag, message


def queued(client: redis.Redis) -> list[str]:
    """Ids of the messages in the queue, in the order in which they will be taken."""
    return [json.loads(raw)["headers"]["id"] for raw in reversed(client.lrange("chat", 0, -1))]


def test_a_message_is_held_until_it_is_done_with(holdings: Holdings, client: redis.Redis) -> None:
    enqueue(client, "one")
    tag, _message = take(holdings, client)
    holdings.look()
    assert (holdings.count, client.llen(HOLDER.key)) == (1, 1)
    holdings.done(tag)
    assert (holdings.count, client.llen(HOLDER.key), queued(client)) == (0, 0, [])


@pytest.mark.parametrize(("end", "order"), [(End.FRONT, ["one", "two"]), (End.BACK, ["two", "one"])])
def test_a_message_that_goes_back_is_delivered_again_under_another_name(
    holdings: Holdings, client: redis.Redis, end: End, order: list[str]
) -> None:
    enqueue(client, "one", "two")
    tag, _message = take(holdings, client)
    holdings.put_back(tag, end)
    assert queued(client) == order
    assert client.llen(HOLDER.key) == 0
    tags = {take(holdings, client)[0] for _ in order}
    assert tag not in tags


def test_what_nobody_works_on_any_more_goes_back(holdings: Holdings, client: redis.Redis) -> None:
    enqueue(client, "one", "two")
    _worked_on = take(holdings, client)
    take(holdings, client)
    holdings.look()
    assert queued(client) == ["two"]
    assert (holdings.count, client.llen(HOLDER.key)) == (1, 1)


def test_a_message_whose_reply_was_lost_goes_back_at_the_second_look(holdings: Holdings, client: redis.Redis) -> None:
    enqueue(client, "lost", "known")
    pop(client)
    _known = take(holdings, client)
    holdings.look()
    assert queued(client) == []
    holdings.look()
    assert queued(client) == ["lost"]
    assert client.llen(HOLDER.key) == 1


def test_a_reply_that_comes_between_two_looks_is_no_lost_one(holdings: Holdings, client: redis.Redis) -> None:
    enqueue(client, "slow")
    raw, message = pop(client), Message()
    holdings.look()
    found = holdings.take(raw)
    assert found is not None
    holdings.track("slow", message)
    holdings.look()
    holdings.look()
    assert queued(client) == []


def test_a_reply_that_comes_after_its_message_was_put_back_is_passed_over(holdings: Holdings, client: redis.Redis) -> None:
    enqueue(client, "late")
    raw = pop(client)
    holdings.look()
    holdings.look()
    assert queued(client) == ["late"]
    assert holdings.take(raw) is None
    assert take(holdings, client)[0] != "late"
    assert holdings.count == 1


def test_a_stranger_is_found_although_the_number_is_right(holdings: Holdings, client: redis.Redis) -> None:
    enqueue(client, "stranger", "elsewhere")
    pop(client)
    _elsewhere = take(holdings, client)
    client.lpop(HOLDER.key)
    for _ in range(24):
        holdings.look()
    assert queued(client) == ["stranger"]


@pytest.mark.parametrize("unreadable", [b"\xff", b"5", b"{}", b'{"properties": {}}'])
def test_what_nobody_can_read_is_dropped(holdings: Holdings, client: redis.Redis, unreadable: bytes) -> None:
    client.lpush(HOLDER.key, unreadable)
    assert holdings.take(unreadable) is None
    assert (holdings.count, client.llen(HOLDER.key)) == (0, 0)


def test_a_process_that_was_declared_dead_settles_nothing(holdings: Holdings, client: redis.Redis) -> None:
    enqueue(client, "one", "two")
    (first, _one), (second, _two) = take(holdings, client), take(holdings, client)
    client.zrem(keys.ALIVE, HOLDER.worker_id)
    holdings.done(first)
    holdings.fence()
    holdings.put_back(second, End.FRONT)
    holdings.give_up()
    assert (client.llen(HOLDER.key), queued(client)) == (2, [])
    assert not holdings.may_take


def test_at_the_end_everything_goes_back_in_its_order_and_the_worker_is_forgotten(
    holdings: Holdings, client: redis.Redis
) -> None:
    enqueue(client, "one", "two", "three", "four")
    _tracked = [take(holdings, client) for _ in range(2)]
    pop(client)
    holdings.give_up()
    assert queued(client) == ["one", "two", "three", "four"]
    assert client.type(HOLDER.key) == "string"
    assert client.exists(keys.ALIVE, keys.WORKER_QUEUES) == 0


def test_what_redis_could_not_be_told_is_told_at_a_later_look(own_redis: tuple[Process, Settings]) -> None:
    server, settings = own_redis
    with opened(settings) as holdings, connection.open_sync(settings) as client:
        enqueue(client, "done", "back")
        (done, _done), (back, _back) = take(holdings, client), take(holdings, client)
        client.config_set("requirepass", "another")  # connections that exist go on; new ones are refused
        holdings._client.connection_pool.disconnect()
        holdings.done(done)
        holdings.put_back(back, End.FRONT)
        assert (client.llen(HOLDER.key), holdings.count) == (2, 0)
        client.config_set("requirepass", holdings._client.connection_pool.connection_kwargs["password"])
        holdings.look()
        assert (client.llen(HOLDER.key), queued(client)) == (0, ["back"])
    process.stop([server], 5)


def test_the_redelivered_message_says_so(holdings: Holdings, client: redis.Redis) -> None:
    enqueue(client, "one")
    tag, _message = take(holdings, client)
    holdings.put_back(tag, End.FRONT)
    found = envelope.read(pop(client))
    assert found is not None
    assert found["headers"]["redelivered"] is True


def test_until_it_may_take_messages_and_after_each_refusal_redis_counts_as_away(settings: Settings) -> None:
    with connection.open_sync(settings, raw=True) as client:
        holdings = Holdings(client, HOLDER)
        assert holdings.refused_until >= time.monotonic() - 0.1
        holdings.open()
        assert holdings.refused_until <= time.monotonic()
        holdings.note_refusal()
        assert holdings.refused_until > time.monotonic()


def test_a_process_seems_alive_only_for_as_long_as_nobody_can_have_declared_it_dead(holdings: Holdings) -> None:
    assert not holdings.seems_alive()
    holdings.lived(time.monotonic())
    assert holdings.seems_alive()
    holdings.lived(time.monotonic() - liveness.TTL_S)
    assert not holdings.seems_alive()
