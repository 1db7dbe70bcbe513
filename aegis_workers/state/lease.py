"""A lease that one process at a time holds."""

import secrets

import redis.asyncio

from aegis_workers.state import scripts


class Lease:
    """The right to do what only one process should. Expires `ttl_s` seconds after it was last held on to."""

    def __init__(self, client: redis.asyncio.Redis, key: str, *, ttl_s: float) -> None:
        self._client = client
        self._key = key
        self._ttl_ms = int(ttl_s * 1000)
        self._token = secrets.token_hex(8)

    async def hold(self) -> bool:
        """Take the lease, or hold on to it; False while another process has it."""
        return bool(await self._client.eval(scripts.HOLD_LEASE, 1, self._key, self._token, str(self._ttl_ms)))

    async def drop(self) -> None:
        """Give it back, so that another process need not wait for its end."""
        await self._client.eval(scripts.DROP_LEASE, 1, self._key, self._token)
