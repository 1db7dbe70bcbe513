"""The queues from outside: how much waits in each, and for how long."""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis
import redis.asyncio

from aegis_workers.state import held
from aegis_workers.state.envelope import ENQUEUED_AT

NAMES: Final = ("extraction", "chat", "control")

# A message may have hundreds of kilobytes. Within JSON's strings a quotation mark has a backslash before it, so these are names.
_ENQUEUED_AT: Final = re.compile(rf'(?<!\\)"{ENQUEUED_AT}":\s*(\d+(?:\.\d+)?)')
_TAG: Final = re.compile(r'(?<!\\)"delivery_tag":\s*"([^"\\]+)"')


@dataclass(frozen=True, kw_only=True)
class Queue:
    """One queue. `length` in messages, of all priorities.

    `enqueued_at`: of the message that is next, epoch seconds, None where its producer does not say so; `next_tag`: the name of
    its delivery.
    """

    name: str
    length: int
    enqueued_at: float | None = None
    next_tag: str | None = None


def lists(name: str) -> Sequence[str]:
    """All lists of a queue: producers may give a message a priority of its own."""
    return [name, *(f"{name}{held.PRIORITY_SEPARATOR}{priority}" for priority in held.PRIORITIES)]


def read_all(client: redis.Redis) -> Sequence[Queue]:
    """Every queue. Raises `RedisError`."""
    with client.pipeline(transaction=False) as pipe:
        _ask(pipe)
        return _understood(pipe.execute())


async def look(client: redis.asyncio.Redis) -> Sequence[Queue]:
    """Every queue. Raises `RedisError`."""
    async with client.pipeline(transaction=False) as pipe:
        _ask(pipe)
        return _understood(await pipe.execute())


def _ask(pipe: Any) -> None:
    for name in NAMES:
        for each in lists(name):
            pipe.llen(each)
        pipe.lindex(name, -1)


def _understood(answers: Sequence[Any]) -> Sequence[Queue]:
    left: Iterator[Any] = iter(answers)
    return [_queue(name, sum(int(next(left)) for _ in lists(name)), next(left)) for name in NAMES]


def _queue(name: str, length: int, message: str | None) -> Queue:
    at, tag = _ENQUEUED_AT.search(message or ""), _TAG.search(message or "")
    return Queue(
        name=name, length=length, enqueued_at=None if at is None else float(at[1]), next_tag=None if tag is None else tag[1]
    )


class Ages:
    """How long what is next in each queue has waited. Where a producer does not say when it enqueued: since it was first seen."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str | None, float]] = {}

    def oldest_s(self, found: Queue) -> float:
        """In seconds; 0 for an empty queue."""
        now = time.time()
        if not found.length:
            self._seen.pop(found.name, None)
            return 0.0
        tag, seen_at = self._seen.get(found.name, (None, now))
        if tag != found.next_tag:
            seen_at = now
        self._seen[found.name] = (found.next_tag, seen_at)
        return max(0.0, now - (seen_at if found.enqueued_at is None else min(found.enqueued_at, now)))
