"""One RESP3 connection a process on which Redis says which of our keys changed.

`CLIENT TRACKING ON BCAST` works on Redis 6 and later and on Valkey. redis-py's own client-side cache needs Redis 7.4, so the
pushes are read here.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import redis.asyncio
import structlog
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

# A quiet connection is asked whether it still lives this often: a cut network sends no goodbye.
PING_EVERY_S = 10.0
_RECONNECT_AFTER_S = (0.1, 0.5, 1.0, 2.0, 5.0)


class Push:
    """Calls `changed(key)` for every change of a key under one of `prefixes`.

    `changed(None)` means that anything may have changed: the connection was made, was lost, or the whole database was flushed.
    """

    def __init__(self, client: redis.asyncio.Redis, prefixes: Sequence[str], changed: Callable[[str | None], None]) -> None:
        self._client = client
        self._prefixes = tuple(prefixes)
        self._changed = changed
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Listens until cancelled, and connects again whenever the connection is lost."""
        failures = 0
        while True:
            try:
                await self._listen()
            except (RedisError, OSError, TimeoutError) as error:
                if self.connected.is_set():
                    failures = 0
                    log.warning("push.lost", error=repr(error))
            self.connected.clear()
            self._changed(None)
            await asyncio.sleep(_RECONNECT_AFTER_S[min(failures, len(_RECONNECT_AFTER_S) - 1)])
            failures += 1

    async def _listen(self) -> None:
        connection = self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
            connection._parser.set_invalidation_push_handler(self._on_push)  # noqa: SLF001 - redis-py has no public way
            tracked = [word for prefix in self._prefixes for word in ("PREFIX", prefix)]
            await connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", *tracked)
            await connection.read_response()
            self.connected.set()
            self._changed(None)
            await self._follow(connection)
        finally:
            await connection.disconnect(nowait=True)

    async def _follow(self, connection: Any) -> None:
        asked = False
        while True:
            said = await connection.read_response(timeout=PING_EVERY_S, disconnect_on_error=False, push_request=True)
            if said is not None:
                asked = False
            elif asked:
                raise TimeoutError(f"no answer to a ping within {PING_EVERY_S:g} s")
            else:
                await connection.send_command("PING", check_health=False)
                asked = True

    async def _on_push(self, message: Sequence[Any]) -> Sequence[Any]:
        """Passes on what changed. The message itself is what the read that received it returns: None would mean silence."""
        changed = message[1]
        if changed is None:
            self._changed(None)
        for key in changed or ():
            self._changed(key.decode(errors="replace") if isinstance(key, bytes) else str(key))
        return message
