"""What the calls of a task with several have come to: a delivery that follows another one asks for the rest only."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from aegis_workers.state import connection, keys, scripts

log = structlog.get_logger(__name__)

# What a dead worker's task had come to is kept for its successor as long as a result is.
TTL_S: Final = 86_400.0
# Answers that come within this time are written together. One that is not yet written is asked for again if the worker dies.
GATHER_S: Final = 0.05
_AT_ONCE: Final = 200


class Answers:
    """The answers of this worker's tasks, written by `run` in the background."""

    def __init__(self, client: redis.asyncio.Redis, worker_id: str) -> None:
        self._client = client
        self._worker_id = worker_id
        self._keep = client.register_script(scripts.KEEP_ANSWERS)
        self._unwritten: dict[tuple[str, str], str] = {}
        self._written: set[str] = set()
        self._came = asyncio.Event()

    async def earlier(self, task_id: str) -> Mapping[str, str]:
        """What earlier deliveries kept, by the number of the call. Raises `RedisError`."""
        found: Any = await self._client.hgetall(keys.answers(task_id))
        if found:
            self._written.add(task_id)
        return dict(found)

    def keep(self, task_id: str, number: str, answer: str) -> None:
        """Have an answer written soon."""
        self._unwritten[task_id, number] = answer
        self._came.set()

    def forget(self, task_id: str) -> None:
        """The task is done: its answers are in its result."""
        self._unwritten = {key: answer for key, answer in self._unwritten.items() if key[0] != task_id}
        if task_id in self._written:
            self._written.discard(task_id)
            self._unwritten[task_id, ""] = ""
            self._came.set()

    async def run(self) -> None:
        """Writes until cancelled."""
        while True:
            await self._came.wait()
            await asyncio.sleep(GATHER_S)
            self._came.clear()
            try:
                await self._write()
            except (RedisError, OSError) as error:
                log.debug("answers.unwritten", count=len(self._unwritten), error=repr(error))
                self._came.set()
                await asyncio.sleep(connection.RETRY_S)

    async def _write(self) -> None:
        while self._unwritten:
            batch = dict(list(self._unwritten.items())[:_AT_ONCE])
            done = [task_id for task_id, number in batch if not number]
            kept = {key: answer for key, answer in batch.items() if key[1]}
            if done:
                await self._client.unlink(*(keys.answers(task_id) for task_id in done))
            if kept:
                self._written |= {task_id for task_id, _ in kept}
                names = [keys.ALIVE, *(keys.answers(task_id) for task_id, _ in kept)]
                entries = [part for (_, number), answer in kept.items() for part in (number, answer)]
                await self._keep(keys=names, args=[self._worker_id, int(TTL_S * 1000), *entries])
            for key in batch:
                self._unwritten.pop(key, None)
