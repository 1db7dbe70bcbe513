"""Marks of revoked tasks: durable, so that a worker which starts later finds them as well."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import redis
import redis.asyncio

from aegis_workers.state import keys

# As long as a result: whoever revoked a task may ask for its end until then.
TTL_S = 86_400


class Cancel(StrEnum):
    """How far a task may have come and still be ended: `revoke` ends it before an engine has it, `terminate` at any point."""

    REVOKE = "revoke"
    TERMINATE = "terminate"


def mark(client: redis.Redis, task_ids: Iterable[str], cancel: Cancel) -> None:
    """Mark the tasks for whichever worker has them or will take them. A `terminate` that stands there is not weakened."""
    with client.pipeline(transaction=False) as commands:
        _fill(commands, task_ids, cancel)
        commands.execute()


async def share(client: redis.asyncio.Redis, task_ids: Iterable[str], cancel: Cancel) -> None:
    """The same, by a worker that heard of it from a producer which leaves no marks."""
    async with client.pipeline(transaction=False) as commands:
        _fill(commands, task_ids, cancel)
        await commands.execute()


def _fill(commands: Any, task_ids: Iterable[str], cancel: Cancel) -> None:
    for task_id in task_ids:
        commands.set(keys.cancelled(task_id), cancel.value, ex=TTL_S, nx=cancel is Cancel.REVOKE)


def find(client: redis.Redis, task_id: str) -> Cancel | None:
    """The mark of one task, asked of Redis now."""
    value: Any = client.get(keys.cancelled(task_id))
    return parse(value)


async def read(client: redis.asyncio.Redis, task_ids: Iterable[str]) -> Mapping[str, Cancel]:
    """The marks that these tasks have, by task id; a task without one is missing."""
    asked = list(task_ids)
    values: Any = await client.mget([keys.cancelled(task_id) for task_id in asked]) if asked else []
    found = {task_id: parse(value) for task_id, value in zip(asked, values, strict=True)}
    return {task_id: cancel for task_id, cancel in found.items() if cancel is not None}


def parse(value: str | None) -> Cancel | None:
    """What a mark means. Any word but `terminate` is the weaker one: somebody wanted the task not to run."""
    if value is None:
        return None
    return Cancel.TERMINATE if value.strip().lower() == Cancel.TERMINATE else Cancel.REVOKE
