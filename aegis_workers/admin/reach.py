"""Redis, for the threads of the server: whoever asks is told soon that it does not answer, however many ask at once."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from aegis_workers.errors import RedisUnavailable
from aegis_workers.settings import Settings
from aegis_workers.state import connection

# How long an answer is waited for.
WITHIN_S: Final = 1.0
# A Redis that was silent is not asked again for so long: each question would hold a thread for `WITHIN_S`.
_SPARED_S: Final = 1.0


class Reach:
    """One client for all threads. It connects at its first command."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = connection.open_sync(settings, timeout_s=WITHIN_S)
        self._spared_until = float("-inf")
        self._why = ""

    @contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        """The client. The block raises `RedisUnavailable` where Redis does not answer at once, or refuses."""
        if time.monotonic() < self._spared_until:
            raise RedisUnavailable(self._why)
        try:
            yield self._client
        except RedisTimeoutError as error:
            failure = connection.failure(self._settings, error)
            self._why, self._spared_until = str(failure), time.monotonic() + _SPARED_S
            raise failure from None
        except RedisError as error:
            raise connection.failure(self._settings, error) from None

    def close(self) -> None:
        """Gives the connections back."""
        self._client.close()
