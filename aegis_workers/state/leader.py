"""Which controller leads: one at a time, under a token that every later leader exceeds."""

from typing import Any, Final

import redis
import redis.asyncio

from aegis_workers.state import job_scripts, keys

TTL_S: Final = 10.0
# The leader holds on, and a stand-by asks, this often: one takes over at most `TTL_S + HOLD_EVERY_S` after the other's death.
HOLD_EVERY_S: Final = 2.0


class Leadership:
    """One controller's claim to lead. `name` says in words who it is; two of the same name are told apart by their tokens.

    Whoever leads writes with its token, and a write under an older one is refused by the script that would carry it out. So a
    leader that was frozen past its time does no harm, whatever it still believes.
    """

    def __init__(self, client: redis.asyncio.Redis, name: str) -> None:
        self._client = client
        self._name = name
        self._token: int | None = None

    async def hold(self) -> int | None:
        """Lead, or go on leading, for the next `TTL_S` seconds; None while another controller leads.

        A token that differs from the last one means that the lock was lost in between, and another may have led. Raises
        `RedisError`; then the lock may be held or not, and the token of before is good until a script refuses it.
        """
        own = "" if self._token is None else str(self._token)
        found: Any = await self._client.eval(
            job_scripts.LEAD, 2, keys.CONTROLLER, keys.CONTROLLER_TOKEN, self._name, str(int(TTL_S * 1000)), own
        )
        self._token = int(found) or None
        return self._token

    async def release(self) -> None:
        """Lead no more, so that another controller need not wait for the end of the lock."""
        token, self._token = self._token, None
        if token is not None:
            await self._client.eval(job_scripts.RESIGN, 1, keys.CONTROLLER, self._name, str(token))


def read(client: redis.Redis) -> str | None:
    """Who leads now, by its name; None where nobody does."""
    return _name(client.get(keys.CONTROLLER))


async def is_there(client: redis.asyncio.Redis) -> bool:
    """Whether a controller leads now."""
    return _name(await client.get(keys.CONTROLLER)) is not None


def _name(holder: Any) -> str | None:
    return None if holder is None else str(holder).partition(":")[2]
