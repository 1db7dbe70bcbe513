import signal
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis
import redis.asyncio

from aegis_workers.errors import RedisFull, RedisUnavailable
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine, Lane, Mode
from aegis_workers.settings import Settings
from aegis_workers.state import connection, keys, mode
from aegis_workers.state.cached import Cached
from aegis_workers.state.mode import ModeReading
from aegis_workers.state.slots import Exchange, Refusal, Slots, Want

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("socket_timeout", "socket_connect_timeout"):
        monkeypatch.setitem(connection._OPTIONS, name, 0.5)


@pytest.fixture
def freeze(own_redis: tuple[Process, Settings]) -> Iterator[Process]:
    child, _ = own_redis
    yield child
    child.popen.send_signal(signal.SIGCONT)


async def read(cached: Cached[ModeReading]) -> tuple[Mode, bool]:
    cached.drop()
    reading = await cached.read()
    return reading.value.mode, reading.stale


async def test_a_frozen_redis_gives_the_last_known_mode_as_stale_and_is_believed_again_when_it_thaws(
    own_redis: tuple[Process, Settings], freeze: Process
) -> None:
    with connection.open_sync(own_redis[1]) as operator:
        operator.set(keys.MODE, "ollama")
        async with connection.open_async(own_redis[1]) as client:
            cached = mode.cache(client, Mode.AUTO)
            assert await read(cached) == (Mode.OLLAMA, False)
            connections = operator.info("stats")["total_connections_received"]

            freeze.popen.send_signal(signal.SIGSTOP)
            assert await read(cached) == (Mode.OLLAMA, True)
            freeze.popen.send_signal(signal.SIGCONT)

            assert await read(cached) == (Mode.OLLAMA, False)
            # The one that the last read made; a second attempt at the frozen Redis would have held the first read twice as long.
            assert operator.info("stats")["total_connections_received"] == connections + 1


async def test_a_frozen_redis_holds_the_task_boundary_for_a_bounded_time_and_its_late_answer_is_nobodys(
    own_redis: tuple[Process, Settings], freeze: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SOCKET_TIMEOUT_S", 0.5)
    asked = Exchange(engine=Engine.VLLM, replicas=[], mode=None, epoch="")
    want = Want(call_id="a", task_id="a", lane=Lane.BULK)
    async with connection.open_quick(own_redis[1]) as client:
        slots = Slots(client, "w1", trial_s=1)
        await slots.exchange(asked)
        freeze.popen.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            await slots.exchange(asked)
        freeze.popen.send_signal(signal.SIGCONT)
        assert (await slots.exchange(replace(asked, wants=[want]))).refusals == {Lane.BULK: Refusal.ENGINE}


@pytest.mark.parametrize("opened", [connection.open_async, connection.open_quick])
async def test_a_redis_that_restarts_is_asked_on_a_new_connection_without_an_error(
    settings: Settings, opened: Callable[[Settings], redis.asyncio.Redis]
) -> None:
    with connection.open_sync(settings) as operator:
        async with opened(settings) as client:
            await client.set("aegis:test", "1")
            operator.client_kill_filter(_type="normal", skipme=True)
            assert await client.get("aegis:test") == "1"
    with connection.open_sync(settings) as killed, connection.open_sync(settings) as operator:
        killed.ping()
        operator.client_kill_filter(_type="normal", skipme=True)
        assert killed.get("aegis:test") == "1"


def test_an_absent_redis_is_one_sentence_with_its_address_and_its_cure_and_without_its_password() -> None:
    nobody = Settings(_env_file=None, redis_url="redis://:hunter2@127.0.0.1:1/0")
    with (
        pytest.raises(RedisUnavailable) as caught,
        connection.explained(nobody),
        connection.open_sync(nobody) as client,
    ):
        client.ping()
    message = str(caught.value)
    assert "redis://:***@127.0.0.1:1/0" in message
    assert "hunter2" not in message
    assert "start it, or set AEGIS_REDIS_URL" in message
    assert caught.value.__suppress_context__


def test_a_reason_without_words_is_still_said() -> None:
    nobody = Settings(_env_file=None, redis_url="redis://host")
    assert "TimeoutError()" in connection.unavailable(nobody, TimeoutError())


def test_a_full_redis_is_told_from_one_that_is_away_also_inside_a_script(full: redis.Redis, settings: Settings) -> None:
    for write in (lambda: full.set("aegis:test", "1"), lambda: full.eval("return redis.call('SET', 'aegis:test', '1')", 0)):
        with pytest.raises(RedisFull) as caught, connection.explained(settings):
            write()
        assert "is full, nothing was written" in str(caught.value)
        assert "raise its maxmemory" in str(caught.value)
        assert settings.redis_url not in str(caught.value)


def test_a_frozen_redis_is_silent_and_one_that_is_away_or_answers_is_not(
    own_redis: tuple[Process, Settings], freeze: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SILENT_S", 0.5)
    _, settings = own_redis
    assert not connection.is_silent(settings)
    freeze.popen.send_signal(signal.SIGSTOP)
    assert connection.is_silent(settings)
    freeze.popen.kill()
    freeze.popen.wait()
    assert not connection.is_silent(settings)
