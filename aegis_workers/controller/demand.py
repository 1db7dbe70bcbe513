"""Whether extraction work is there, for an engine that runs on demand."""

import asyncio
from typing import Any, Final

import redis.asyncio

from aegis_workers.controller.snapshot import Work
from aegis_workers.routing import TaskType
from aegis_workers.state import keys
from aegis_workers.state.job_state import State
from aegis_workers.state.jobs import Jobs

_QUEUE: Final = TaskType.EXTRACTION.value
_LOOK_EVERY_S: Final = 0.5


class Demand:
    """Looks at the queue, at what workers hold of it, and at the jobs. A leader counts idle time from its own beginning."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._jobs = Jobs(client)
        self._clock = asyncio.get_running_loop().time
        self._busy_at = self._clock()
        self._looked_at = float("-inf")
        self._is_there = False

    async def read(self) -> Work:
        """Whether work is there, as it was half a second ago at most. Raises `RedisError`."""
        now = self._clock()
        if now - self._looked_at >= _LOOK_EVERY_S:
            self._is_there = await self._is_queued() or await self._is_held() or await self._is_to_be_fed()
            self._looked_at = now
        if self._is_there:
            self._busy_at = now
        return Work(is_there=self._is_there, idle_s=now - self._busy_at)

    async def _is_queued(self) -> bool:
        length: Any = await self._client.llen(_QUEUE)
        return bool(length)

    async def _is_held(self) -> bool:
        """By workers that run it or wait for an engine, and by dead ones whose messages are not put back yet."""
        queues: Any = await self._client.hgetall(keys.WORKER_QUEUES)
        async with self._client.pipeline(transaction=False) as commands:
            for worker_id, queue in queues.items():
                if queue == _QUEUE:
                    commands.llen(keys.held(worker_id))
            lengths: Any = await commands.execute(raise_on_error=False)  # where one is gone there is no list
        return any(isinstance(length, int) and length > 0 for length in lengths)

    async def _is_to_be_fed(self) -> bool:
        """A job whose engine is down is not fed, and says what it waits for."""
        states = await self._jobs.read_many(await self._jobs.open_ids())
        return any(job.state is State.OPEN and (job.out_chunks or job.waits) for job in states.values())
