"""Clients of a Redis that Sentinels watch: each finds the new master, and so does the one that hears of changes."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import guarded_redis
import pytest
from guarded_redis import SENTINEL_PASSWORD, Watched
from installation import eventually
from redis.exceptions import RedisError

from aegis_workers.errors import RedisUnavailable
from aegis_workers.settings import Settings
from aegis_workers.state import connection, keys
from aegis_workers.state.push import Push

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

WITHIN_S = 60.0


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with guarded_redis.watched(tmp_path / "redis") as found:
        yield found


def settings_of(watched: Watched, **other: object) -> Settings:
    told = {"redis_url": watched.url, "redis_master": "aegis", "redis_sentinel_password": SENTINEL_PASSWORD, **other}
    return Settings.model_validate(told)


async def answers(ask: Callable[[], Awaitable[object]]) -> None:
    """Returns when it does."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await ask()
            except (RedisError, OSError):
                await asyncio.sleep(0.05)
            else:
                return


async def test_every_kind_of_client_and_the_push_follow_a_failover(watched: Watched) -> None:
    settings, told, heard = settings_of(watched), asyncio.Event(), []

    def changed(key: str | None) -> None:
        heard.append(key)
        told.set()

    with connection.open_sync(settings) as sync:
        async with connection.open_async(settings) as pooled, connection.open_quick(settings) as quick:
            clients = [pooled, quick]
            push = Push(pooled, [keys.MODE], changed)
            listening = asyncio.create_task(push.run())
            async with asyncio.timeout(WITHIN_S):
                await push.connected.wait()
            for one in clients:
                await one.get(keys.MODE)
            sync.get(keys.MODE)

            watched.kill_master()
            for one in clients:
                await answers(partial(one.set, "aegis:test", "1"))
            await answers(partial(asyncio.to_thread, sync.set, "aegis:test", "2"))
            assert watched.at(watched.replica).get("aegis:test") == "2"

            async with asyncio.timeout(WITHIN_S):
                await push.connected.wait()
            assert None in heard  # whatever was remembered was dropped
            heard.clear()
            sync.set(keys.MODE, "vllm")
            async with asyncio.timeout(WITHIN_S):
                while keys.MODE not in heard:
                    told.clear()
                    await told.wait()
            await connection.ended(listening)


def asking(watched: Watched) -> int:
    """How many connections to the Sentinels there are over which somebody has asked where the master is."""
    found = 0
    for port in watched.sentinels:
        with watched.sentinel(port) as sentinel:
            found += sum(not one["name"] and one["cmd"].startswith("sentinel") for one in sentinel.client_list())
    return found


async def test_no_connection_to_a_sentinel_stays_open(watched: Watched) -> None:
    settings = settings_of(watched)
    with connection.open_sync(settings) as sync:
        async with connection.open_async(settings) as pooled:
            sync.ping()
            await pooled.ping()
            eventually(lambda: asking(watched) == 0)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"redis_master": "another"}, "no Sentinel knows a master another that lives"),
        ({"redis_sentinel_password": None}, "AEGIS_REDIS_SENTINEL_PASSWORD"),
        ({"redis_sentinel_password": "wrong"}, "AEGIS_REDIS_SENTINEL_PASSWORD"),
    ],
)
def test_sentinels_that_do_not_help_are_one_sentence_with_the_cure(
    other: dict[str, object], words: str, watched: Watched
) -> None:
    settings = settings_of(watched, **other)
    with pytest.raises(RedisUnavailable) as caught, connection.explained(settings), connection.open_sync(settings) as client:
        client.ping()
    assert words in str(caught.value)
    assert "planted" not in str(caught.value)


def test_a_wrong_password_of_the_master_is_told_from_one_of_the_sentinels(watched: Watched) -> None:
    settings = settings_of(watched, redis_url=watched.url.replace("planted", "wrong"))
    with pytest.raises(RedisUnavailable) as caught, connection.explained(settings), connection.open_sync(settings) as client:
        client.ping()
    assert "refuses the password, or its user: correct it in AEGIS_REDIS_URL" in str(caught.value)
    assert "SENTINEL_PASSWORD" not in str(caught.value)
