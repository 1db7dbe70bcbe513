from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
import redis_servers

from aegis_workers.settings import Settings
from aegis_workers.state import connection, server
from aegis_workers.state.server import Level

GOOD: Mapping[str, Any] = {
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
    "cluster_enabled": 0,
}


def levels(**facts: Any) -> dict[str, Level]:
    return {finding.what: finding.level for finding in server.findings({**GOOD, **facts})}


def unfit(**facts: Any) -> str | None:
    return server.unfit(list(server.findings({**GOOD, **facts})))


def test_a_redis_that_is_as_it_should_be_is_fit() -> None:
    assert set(levels().values()) == {Level.OK}
    assert unfit() is None


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("5.0.14", Level.MISSING),
        ("6.0.16", Level.MISSING),
        ("6.2.0", Level.OK),
        ("7.0.15", Level.OK),
        ("10.0.0", Level.OK),
        ("255.255.255", Level.OK),
        ("unstable", Level.WARNING),
    ],
)
def test_redis_must_be_6_2_or_newer(version: str, level: Level) -> None:
    assert levels(redis_version=version)["Redis version"] is level


def test_valkey_counts_as_the_redis_that_it_says_it_is() -> None:
    assert unfit(redis_version="7.2.4", server_name="valkey", valkey_version="8.1.0") is None


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-ttl"])
def test_a_redis_that_evicts_is_unfit(policy: str) -> None:
    assert unfit(maxmemory_policy=policy) == (
        f"eviction {policy}: a full Redis would drop queued tasks; set maxmemory-policy noeviction"
    )


@pytest.mark.parametrize("facts", [{"cluster_enabled": 1}, {"redis_mode": "cluster", "cluster_enabled": None}])
def test_redis_cluster_is_unfit(facts: Mapping[str, Any]) -> None:
    assert unfit(**facts) == "Cluster on: keys that change together must be on one server; use one"


def test_a_redis_that_forgets_at_a_restart_is_a_warning() -> None:
    assert levels(aof_enabled=0)["Redis persistence"] is Level.WARNING
    assert unfit(aof_enabled=0) is None


def test_what_a_redis_does_not_tell_is_a_warning() -> None:
    assert {finding.level for finding in server.findings({})} == {Level.WARNING}


def test_every_reason_is_said_and_no_password() -> None:
    facts = {**GOOD, "redis_version": "5.0.14", "maxmemory_policy": "allkeys-lru"}
    sentence = server.refusal(list(server.findings(facts)), Settings(_env_file=None, redis_url="redis://:hunter2@h:1/0"))
    assert sentence is not None
    assert sentence.startswith("Redis at redis://:***@h:1/0 cannot be used (version 5.0.14: 6.2 or newer is needed; and eviction")


def test_a_supported_redis_is_fit(client: redis.Redis) -> None:
    assert [finding.level for finding in server.read(client)] == [Level.OK] * 3


def test_a_server_in_cluster_mode_is_found_out(tmp_path: Path) -> None:
    with (
        redis_servers.running(tmp_path, "--cluster-enabled", "yes") as url,
        connection.open_sync(Settings(_env_file=None, redis_url=url)) as client,
    ):
        reason = server.unfit(server.read(client))
        assert reason is not None
        assert reason.startswith("Cluster on")


def test_a_server_that_is_too_old_for_the_greeting_is_found_out() -> None:
    with (
        redis_servers.older_than_6() as url,
        connection.open_sync(Settings(_env_file=None, redis_url=url)) as client,
    ):
        assert server.unfit(server.read(client)) == "version older than 6.0: 6.2 or newer is needed"


def test_a_user_that_may_not_ask_is_a_warning(client: redis.Redis, settings: Settings) -> None:
    client.acl_setuser("worker", enabled=True, passwords=["+pw"], keys="*", channels="*", commands=["+@all", "-info"])
    try:
        address = settings.redis_url.rpartition("@")[2]
        limited = Settings(_env_file=None, redis_url=f"redis://worker:pw@{address}")
        with connection.open_sync(limited) as worker:
            [finding] = server.read(worker)
        assert finding.level is Level.WARNING
        assert "allow its user INFO" in finding.detail
    finally:
        client.acl_deluser("worker")
