"""Connections to Redis, and one plain sentence for a Redis that cannot be used."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from aegis_workers.address import Kind
from aegis_workers.errors import RedisFull, RedisUnavailable
from aegis_workers.forms import without_password
from aegis_workers.settings import Settings
from aegis_workers.state import denials, sentinels

# A frozen Redis must not hold a call at the task boundary for longer than this.
SOCKET_TIMEOUT_S = 5.0

# Long enough for a Redis that is busy with one slow command.
SILENT_S = 2.0

# How soon a background part tries again when Redis is away.
RETRY_S = 2.0

# How soon what was cancelled and goes on is cancelled again.
_CANCEL_AGAIN_S = 0.1

# One retry, without a pause: a pooled connection that a restarted Redis has closed is replaced, and a Redis that is away is
# reported at once. None after a timeout: a frozen Redis would hold its caller twice as long.
_RETRIES = 1
_RETRIED = (redis.exceptions.ConnectionError,)

# In every version of Redis and Valkey.
_FULL = "command not allowed when used memory"

# A Redis that is away, full, or not the one that is written to: it will be otherwise some time.
_PASSING = (RedisConnectionError, RedisTimeoutError, ReadOnlyError, OSError)
_PASSING_WORDS = ("MISCONF", "NOREPLICAS", "MASTERDOWN")

_OPTIONS: dict[str, Any] = {
    "socket_timeout": SOCKET_TIMEOUT_S,
    "socket_connect_timeout": SOCKET_TIMEOUT_S,
    "decode_responses": True,
    "encoding_errors": "replace",  # anybody may write the mode key; odd bytes are an unknown mode, not a crash
    "client_name": "aegis-workers",
    "protocol": 3,
    "maint_notifications_config": MaintNotificationsConfig(enabled=False),
}


def open_sync(settings: Settings, *, raw: bool = False, timeout_s: float | None = None) -> redis.Redis:
    """A client for threads and command lines. It connects at its first command.

    `raw`: answers are bytes. `timeout_s` bounds each answer, where it is another bound than usual.
    """
    bounds = {} if timeout_s is None else {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    options = _OPTIONS | {"decode_responses": not raw} | bounds
    address, options["retry"] = settings.redis_address, Retry(NoBackoff(), _RETRIES, _RETRIED)
    if address.kind is Kind.SENTINEL:
        return sentinels.open_sync(settings, options)
    return redis.Redis.from_url(address.for_redis_py, **options)


def is_silent(settings: Settings) -> bool:
    """Whether Redis leaves a question without an answer for `SILENT_S` seconds: it is frozen, or behind a network that is cut.

    One that refuses connections, or the question, is not silent: whoever needs it learns so at once.
    """
    try:
        with open_sync(settings, timeout_s=SILENT_S) as client:
            client.ping()
    except redis.exceptions.TimeoutError:
        return True
    except (RedisError, OSError):
        return False
    return False


def unanswered(settings: Settings, *, within_s: float) -> str | None:
    """Why Redis does not answer a question within `within_s` seconds, in words; None where it does."""
    try:
        with open_sync(settings, timeout_s=within_s) as client:
            client.ping()
    except (RedisError, OSError) as error:
        return denials.reason(settings, error) or str(error) or repr(error)
    return None


def open_async(settings: Settings, *, raw: bool = False, timeout_s: float = SOCKET_TIMEOUT_S) -> redis.asyncio.Redis:
    """A client for the event loop, likewise; `timeout_s` bounds each answer."""
    options = {"decode_responses": not raw, "socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    return _async_client(settings, options)


def open_quick(settings: Settings) -> redis.asyncio.Redis:
    """A client for the event loop with one connection of its own, whose user bounds the time of each answer.

    A round trip takes 0.1 ms less: redis-py starts a task for each write that it bounds, and asks its pool twice a command.
    """
    return _async_client(settings, {"socket_timeout": None}, single=True)


def _async_client(settings: Settings, more: dict[str, Any], *, single: bool = False) -> redis.asyncio.Redis:
    address, retry = settings.redis_address, redis.asyncio.retry.Retry(NoBackoff(), _RETRIES, _RETRIED)
    options = {**_OPTIONS, **more, "retry": retry}
    if address.kind is Kind.SENTINEL:
        return sentinels.open_async(settings, options, single=single)
    return redis.asyncio.Redis.from_url(address.for_redis_py, single_connection_client=single, **options)


async def ended(work: asyncio.Future[Any]) -> None:
    """Cancels until the work has ended: redis-py's connections can swallow a cancellation that comes with their answer."""
    while not work.done():
        work.cancel()
        await asyncio.wait([work], timeout=_CANCEL_AGAIN_S)


@contextmanager
def explained(settings: Settings) -> Iterator[None]:
    """Turns any failure to use Redis into `RedisUnavailable`, with the address and what to do."""
    try:
        yield
    except RedisError as error:
        raise failure(settings, error) from None


def failure(settings: Settings, error: Exception) -> RedisUnavailable:
    """What to raise for an error of redis-py, or of kombu in its place: `RedisFull` where that is the cause."""
    if is_full(error):
        return RedisFull(
            f"Redis at {without_password(settings.redis_url)} is full, nothing was written: let workers empty its queues, "
            "then try again, or raise its maxmemory"
        )
    return RedisUnavailable(unavailable(settings, error))


def refused(settings: Settings, error: Exception) -> str | None:
    """The sentence for a Redis that does not let its user in, whatever may be waited for; None for any other failure."""
    reason = denials.lasting(settings, error)
    return reason and f"Redis at {without_password(settings.redis_url)} {reason}"


def is_full(error: Exception) -> bool:
    """Whether Redis refused a command because all of its memory is used."""
    # A script passes it on as a general error, and kombu as one of its own.
    return _FULL in str(error)


def will_pass(error: Exception) -> bool:
    """Whether what failed may be tried again: Redis is away, full, or cannot be written to for now."""
    refused = isinstance(error, ResponseError) and any(word in str(error) for word in _PASSING_WORDS)
    return refused or isinstance(error, _PASSING) or is_full(error)


def unavailable(settings: Settings, error: Exception) -> str:
    """The sentence for a Redis that does not answer, or does not do what it is told."""
    where, said = f"Redis at {without_password(settings.redis_url)}", str(error) or repr(error)
    if (reason := denials.reason(settings, error)) is not None:
        return f"{where} {reason}"
    if isinstance(error, ResponseError) or isinstance(error.__cause__, ResponseError):
        return f"{where} refused a command ({said}): it needs a database of its own, free memory and the right to write"
    return f"{where} does not answer ({said}): start it, or set AEGIS_REDIS_URL"
