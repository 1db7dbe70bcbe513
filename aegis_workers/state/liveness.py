"""Which worker processes live: each says so every second, and one that was silent for too long is declared dead by another."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio

from aegis_workers.state import keys, scripts
from aegis_workers.state.held import Holder

# Silence that makes a worker dead. It outlives a pause of the process for garbage, or of a machine that is short of processors.
TTL_S = 6.0
LOOK_EVERY_S = 1.0
# Two looks of a judge that are further apart have missed something: Redis did not answer, or this process did not run.
MAX_GAP_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a worker saw when it said that it lives.

    `lives`: False where it was declared dead itself. `now_ms`: the clock of Redis. `in_time`: False where too much time lay
    between this look and the last. `dead`: workers that this look declared dead. `left`: dead workers that still hold messages.
    """

    lives: bool
    now_ms: int
    in_time: bool
    dead: Sequence[str]
    left: Sequence[str]


async def enlist(client: redis.asyncio.Redis, holder: Holder) -> None:
    """Begin to live; a worker takes no message before."""
    await client.eval(scripts.ENLIST_WORKER, 2, keys.ALIVE, keys.WORKER_QUEUES, holder.worker_id, holder.queue)


async def look(client: redis.asyncio.Redis, holder: Holder, *, judged_since_ms: int | None) -> Look:
    """Say that the worker lives, and look at the others.

    `judged_since_ms`: when it looked last, if it may declare others dead; None if it may not.
    """
    answer = await client.eval(
        scripts.LOOK_AT_WORKERS,
        2,
        keys.ALIVE,
        keys.WORKER_QUEUES,
        holder.worker_id,
        holder.queue,
        str(int(TTL_S * 1000)),
        str(judged_since_ms or 0),
        str(int(MAX_GAP_S * 1000)),
    )
    lives, now_ms, in_time, dead, left = answer
    return Look(lives=bool(lives), now_ms=int(now_ms), in_time=bool(in_time), dead=_words(dead), left=_words(left))


async def queue_of(client: redis.asyncio.Redis, worker_id: str) -> str | None:
    """The queue of a worker that may hold messages; None where all of them are put back."""
    queue: Any = await client.hget(keys.WORKER_QUEUES, worker_id)
    return None if queue is None else _word(queue)


async def count(client: redis.asyncio.Redis) -> Mapping[str, int]:
    """How many workers live, by queue; a queue without one is missing. One that was silent for too long does not count."""
    seconds, _ = await client.time()
    async with client.pipeline(transaction=False) as pipe:
        pipe.zrange(keys.ALIVE, int((int(seconds) - TTL_S) * 1000), "+inf", byscore=True)
        pipe.hgetall(keys.WORKER_QUEUES)
        living, queues = await pipe.execute()
    return Counter(queues[worker_id] for worker_id in living if worker_id in queues)


def _words(values: Sequence[Any]) -> Sequence[str]:
    return tuple(_word(value) for value in values)


def _word(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
