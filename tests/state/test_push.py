"""Changes that others make, heard at once: on a real Redis, by whoever writes the key and however."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import redis
import redis.asyncio
from settling import WAIT_S, ended

from aegis_workers.local.process import Process
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.state import connection, keys, mode
from aegis_workers.state import push as pushes
from aegis_workers.state.push import Push

pytestmark = pytest.mark.anyio

PREFIXES = (keys.MODE, keys.ENGINE_PREFIX)


class Listener:
    """A push, and what it said."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.heard: asyncio.Queue[str | None] = asyncio.Queue()
        self.push = Push(client, PREFIXES, self.heard.put_nowait)

    async def next(self) -> str | None:
        async with asyncio.timeout(WAIT_S):
            return await self.heard.get()

    async def connected(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await self.push.connected.wait()


@asynccontextmanager
async def listening(client: redis.asyncio.Redis) -> AsyncIterator[Listener]:
    listener = Listener(client)
    task = asyncio.create_task(listener.push.run())
    try:
        assert await listener.next() is None
        await listener.connected()
        yield listener
    finally:
        await ended(task)


@pytest.fixture
async def listener(async_client: redis.asyncio.Redis) -> AsyncIterator[Listener]:
    async with listening(async_client) as listener:
        yield listener


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await holds():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)


async def test_every_way_of_changing_a_key_is_heard(listener: Listener, client: redis.Redis) -> None:
    client.set(keys.MODE, "vllm")
    assert await listener.next() == keys.MODE
    client.append(keys.MODE, "x")
    assert await listener.next() == keys.MODE
    client.delete(keys.MODE)
    assert await listener.next() == keys.MODE
    client.set(keys.MODE, "auto", px=30)
    assert [await listener.next() for _ in range(2)] == [keys.MODE] * 2  # written, and expired
    client.hset(keys.engine(Engine.VLLM), "state", "ready")
    assert await listener.next() == "aegis:engine:vllm"


async def test_a_flush_may_have_changed_anything(listener: Listener, client: redis.Redis) -> None:
    client.set(keys.MODE, "vllm")
    assert await listener.next() == keys.MODE
    client.flushall()
    assert await listener.next() is None
    client.set(keys.MODE, "vllm")
    assert await listener.next() == keys.MODE


async def test_keys_of_others_are_not_heard(listener: Listener, client: redis.Redis) -> None:
    client.set("celery-task-meta-1", "x")
    client.set("aegis:worker:1", "x")
    client.set(keys.MODE, "vllm")
    assert await listener.next() == keys.MODE


async def test_a_key_that_is_no_text_is_heard_too(listener: Listener, client: redis.Redis) -> None:
    client.set(keys.ENGINE_PREFIX.encode() + b"\xff", "x")
    assert str(await listener.next()).startswith(keys.ENGINE_PREFIX)


async def test_a_lost_connection_drops_what_is_known_and_a_new_one_sees_what_changed_meanwhile(
    async_client: redis.asyncio.Redis, client: redis.Redis
) -> None:
    async with listening(async_client) as listener:
        cached = mode.cache(async_client, Mode.AUTO)
        client.set(keys.MODE, "vllm")
        assert await listener.next() == keys.MODE
        assert (await cached.read()).value.mode is Mode.VLLM

        client.client_kill_filter(_type="normal", skipme=True)
        assert await listener.next() is None
        assert not listener.push.connected.is_set()
        client.set(keys.MODE, "ollama")
        assert await listener.next() is None
        cached.drop()  # what `changed(None)` is for
        await listener.connected()

        assert (await cached.read()).value.mode is Mode.OLLAMA
        client.set(keys.MODE, "vllm")
        assert await listener.next() == keys.MODE


async def test_a_quiet_connection_stays(listener: Listener, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushes, "PING_EVERY_S", 0.02)
    client.set(keys.MODE, "vllm")  # the wait that began before the patch ends
    assert await listener.next() == keys.MODE
    client.config_resetstat()

    async def asked_often() -> bool:
        return bool(client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"] > 5)

    await eventually(asked_often)
    assert listener.heard.empty()
    client.set(keys.MODE, "ollama")
    assert await listener.next() == keys.MODE


async def test_a_redis_that_froze_is_noticed_and_found_again(
    own_redis: tuple[Process, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushes, "PING_EVERY_S", 0.1)
    for name in ("socket_timeout", "socket_connect_timeout"):
        monkeypatch.setitem(connection._OPTIONS, name, 0.2)
    child, settings = own_redis
    async with connection.open_async(settings) as client, listening(client) as listener:
        child.popen.send_signal(signal.SIGSTOP)
        try:
            assert await listener.next() is None
            assert not listener.push.connected.is_set()
        finally:
            child.popen.send_signal(signal.SIGCONT)
        await listener.connected()
        with connection.open_sync(settings) as operator:
            operator.set(keys.MODE, "vllm")
        while await listener.next() is None:
            pass


async def test_a_redis_that_does_not_answer_is_tried_until_it_does(
    own_redis: tuple[Process, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("socket_timeout", "socket_connect_timeout"):
        monkeypatch.setitem(connection._OPTIONS, name, 0.1)
    child, settings = own_redis
    child.popen.send_signal(signal.SIGSTOP)
    async with connection.open_async(settings) as client:
        listener = Listener(client)
        task = asyncio.create_task(listener.push.run())
        try:
            for _ in range(2):
                assert await listener.next() is None
                assert not listener.push.connected.is_set()
            child.popen.send_signal(signal.SIGCONT)
            await listener.connected()
        finally:
            await ended(task)


async def test_an_ended_push_leaves_no_connection(async_client: redis.asyncio.Redis, client: redis.Redis) -> None:
    own = client.client_id()

    async def alone() -> bool:
        return [found["id"] for found in client.client_list()] == [str(own)]

    async with listening(async_client):
        assert not await alone()
    await eventually(alone)
