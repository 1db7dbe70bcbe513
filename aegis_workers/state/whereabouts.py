"""Where the messages of a queue are: in it, or with a worker that holds them. A look, for whoever misses one."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import redis.asyncio

from aegis_workers.state import keys

# A message names its task so beside its body, which is base64 and can hold nothing that looks like it.
_TASK_ID = re.compile(rb'"correlation_id":\s*"([^"]{1,255})"')
# Messages of one answer; each may have some 100 kB.
_AT_ONCE = 16


async def task_ids(client: redis.asyncio.Redis, queue: str) -> frozenset[str]:
    """The ids of the tasks whose messages are in the queue, or held by a worker of it.

    A message that moves meanwhile may be missed: only one that two looks miss is lost.
    """
    found = set(await _ids(client, queue))
    queues: Any = await client.hgetall(keys.WORKER_QUEUES)
    for worker_id, its_queue in queues.items():
        if its_queue == queue:
            found |= await _ids(client, keys.held(worker_id))
    return frozenset(found)


async def _ids(client: redis.asyncio.Redis, name: str) -> set[str]:
    found: set[str] = set()
    start = 0
    while messages := await _page(client, name, start):
        found.update(_named(messages))
        start += len(messages)
    return found


async def _page(client: redis.asyncio.Redis, name: str, start: int) -> Sequence[bytes]:
    command: Any = client.execute_command  # which redis-py leaves untyped
    messages: Sequence[bytes] = await command("LRANGE", name, start, start + _AT_ONCE - 1, NEVER_DECODE=True)
    return messages


def _named(messages: Iterable[bytes]) -> Iterable[str]:
    return (match[1].decode() for message in messages if (match := _TASK_ID.search(message)))
