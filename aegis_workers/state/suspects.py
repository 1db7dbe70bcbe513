"""The one item or call that runs alone because it may be what kills workers or engines: no other suspect runs beside it.

Whoever it kills, it is then known what was at work, and the others go free.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

import redis
import redis.asyncio
from redis.exceptions import RedisError

from aegis_workers.state import keys, scripts

# The turn of a suspect whose worker is gone ends by itself after this; it outlasts the time after which a worker counts as dead.
TTL_S: Final = 30.0
_REFRESH_S: Final = 5.0
_ASK_AGAIN_S: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """Which worker has which item of which task at work alone. `item` counts from 0; a task of one text has one."""

    worker_id: str
    task_id: str
    item: int


class Suspects:
    """This worker's suspects: each waits here until none is at work in any worker."""

    def __init__(self, client: redis.asyncio.Redis, worker_id: str) -> None:
        self._client = client
        self._worker_id = worker_id
        self._ours = asyncio.Lock()

    @asynccontextmanager
    async def alone(self, task_id: str, item: int = 0) -> AsyncIterator[None]:
        """The block runs while no other suspect does, wherever it may be."""
        token = json.dumps(asdict(Suspect(worker_id=self._worker_id, task_id=task_id, item=item)))
        async with self._ours:
            while not await self._hold(token):  # noqa: ASYNC110 - other workers have no event for it
                await asyncio.sleep(_ASK_AGAIN_S)
            holding = asyncio.create_task(self._hold_on(token))
            try:
                yield
            finally:
                holding.cancel()
                with suppress(RedisError, OSError):
                    await asyncio.shield(self._client.eval(scripts.DROP_LEASE, 1, keys.SUSPECT, token))

    async def _hold(self, token: str) -> bool:
        try:
            return bool(await self._client.eval(scripts.HOLD_LEASE, 1, keys.SUSPECT, token, str(int(TTL_S * 1000))))
        except (RedisError, OSError):
            return False

    async def _hold_on(self, token: str) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            await self._hold(token)


async def of_worker(client: redis.asyncio.Redis, worker_id: str) -> Suspect | None:
    """What this worker had at work alone, if anything."""
    value: Any = await client.get(keys.SUSPECT)
    found = Suspect(**json.loads(value)) if value else None
    return found if found is not None and found.worker_id == worker_id else None


async def release(client: redis.asyncio.Redis, suspect: Suspect) -> None:
    """Its worker is dead: the next suspect may run."""
    await client.eval(scripts.DROP_LEASE, 1, keys.SUSPECT, json.dumps(asdict(suspect)))
