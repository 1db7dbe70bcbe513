"""How many messages wait in a queue, and how many the workers hold that took them from there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from redis.exceptions import ResponseError

from aegis_workers.state import keys
from aegis_workers.state.queues import lists


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """A queue: messages that wait in it, those that its workers hold and are not done with, and how many workers live."""

    queue: str
    waiting: int
    held: int
    workers: int


async def count(client: redis.asyncio.Redis, queues: Sequence[str]) -> list[Backlog]:
    """Each of `queues` at this moment, in two round trips. Raises `RedisError`."""
    async with client.pipeline(transaction=False) as pipe:
        pipe.zrange(keys.ALIVE, 0, -1)
        pipe.hgetall(keys.WORKER_QUEUES)
        alive, served = await pipe.execute()
    names = [name for queue in queues for name in lists(queue)] + [keys.held(worker_id) for worker_id in served]
    async with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(name)
        lengths = dict(zip(names, map(_length, await pipe.execute(raise_on_error=False)), strict=True))
    return [
        Backlog(
            queue=queue,
            waiting=sum(lengths[name] for name in lists(queue)),
            held=sum(lengths[keys.held(worker_id)] for worker_id, name in served.items() if name == queue),
            workers=sum(1 for worker_id in alive if served.get(worker_id) == queue),
        )
        for queue in queues
    ]


def _length(answer: Any) -> int:
    if isinstance(answer, ResponseError) and str(answer).startswith("WRONGTYPE"):  # the worker is gone, and holds nothing
        return 0
    if isinstance(answer, Exception):
        raise answer
    return int(answer)
