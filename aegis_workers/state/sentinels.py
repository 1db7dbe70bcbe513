"""Clients of a Redis that Sentinels watch: each new connection asks them where the master is now, and so follows a failover.

Celery and kombu are told the same, in their own words, by `celery_options`.
"""

from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from aegis_workers.settings import Settings

# A Sentinel has nothing else to do; the next one is asked when one is away.
SENTINEL_TIMEOUT_S = 1.0


class _Sentinels(redis.sentinel.Sentinel):
    """Sentinels that are asked seldom: no connection to them stays open."""

    def discover_master(self, service_name: str) -> Any:
        try:
            return super().discover_master(service_name)  # type: ignore[no-untyped-call]
        finally:
            for each in self.sentinels:
                each.connection_pool.disconnect(inuse_connections=False)


class _AsyncSentinels(redis.asyncio.sentinel.Sentinel):
    """Likewise."""

    async def discover_master(self, service_name: str) -> Any:
        try:
            return await super().discover_master(service_name)
        finally:
            for each in self.sentinels:
                await each.connection_pool.disconnect(inuse_connections=False)


class _Following(redis.asyncio.sentinel.SentinelManagedConnection):
    """A connection that asks the Sentinels whenever it is made anew.

    That of redis-py asks them only where a pool hands it out: one that is lost and stays with its user would go back to where the
    old master was, for ever.
    """

    _is_told = False

    async def connect_to(self, address: Any) -> None:
        self._is_told = True
        try:
            await super().connect_to(address)  # type: ignore[no-untyped-call]
        finally:
            self._is_told = False

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        if self._is_told:
            await super().connect_check_health(*args, **options)
        else:
            await self.connect()  # type: ignore[no-untyped-call]


class _FollowingWithTls(_Following, redis.asyncio.sentinel.SentinelManagedSSLConnection):
    """Likewise."""


def open_sync(settings: Settings, options: dict[str, Any]) -> redis.Redis:
    """A client of the master; `options` are those of its connections."""
    asked = _asking(settings) | {"retry": Retry(NoBackoff(), 0)}
    found = _Sentinels(settings.redis_address.sentinels, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    client: redis.Redis = found.master_for(settings.redis_master, **_of_master(settings), **options)  # type: ignore[no-untyped-call]
    return client


def open_async(settings: Settings, options: dict[str, Any], *, single: bool = False) -> redis.asyncio.Redis:
    """Likewise for the event loop; `single`: with one connection of its own."""
    asked = _asking(settings) | {"retry": redis.asyncio.retry.Retry(NoBackoff(), 0)}
    found = _AsyncSentinels(settings.redis_address.sentinels, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    made = _Following if settings.redis_address.tls is None else _FollowingWithTls
    of_master = _of_master(settings) | {"connection_class": made}
    client: redis.asyncio.Redis = found.master_for(settings.redis_master, **of_master, **options)
    client.single_connection_client = single
    return client


def celery_options(settings: Settings) -> dict[str, Any]:
    """Transport options of a broker or a result backend."""
    asked = _asking(settings) | {"retry": Retry(NoBackoff(), 0)}
    return {"master_name": settings.redis_master, "sentinel_kwargs": asked}


def _asking(settings: Settings) -> dict[str, Any]:
    """How Sentinels are connected to; they have a password of their own."""
    password = settings.redis_sentinel_password
    return {
        "socket_timeout": SENTINEL_TIMEOUT_S,
        "socket_connect_timeout": SENTINEL_TIMEOUT_S,
        **({} if password is None else {"password": password.get_secret_value()}),
        **_tls(settings),
    }


def _of_master(settings: Settings) -> dict[str, Any]:
    address = settings.redis_address
    return {
        "db": int(address.db or 0),
        **({"username": address.user} if address.user else {}),
        **({"password": address.password} if address.password else {}),
        **_tls(settings),
    }


def _tls(settings: Settings) -> dict[str, Any]:
    tls = settings.redis_address.tls
    return {} if tls is None else {"ssl": True, **settings.redis_address.tls_arguments}
