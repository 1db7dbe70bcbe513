"""What a worker process holds: the messages that it took from its queue and is not done with, in a list of its own.

A message moves there in the same command that takes it from the queue, so that there is no moment at which nobody holds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

import redis
import redis.asyncio

from aegis_workers.state import keys, scripts

# How long nothing can be put where a worker that is gone had its messages: a process may be frozen in the middle of taking one.
GONE_S = 7 * 86_400
# Celery's other lists of a queue: its name, this, and one of these priorities.
PRIORITY_SEPARATOR = "\x06\x16"
PRIORITIES = range(1, 10)
# Messages of other priorities that are moved in one step at most: Redis serves nobody else meanwhile.
_GATHERED = 200


class End(StrEnum):
    """Which end of a queue a message goes back to: `front` is taken next."""

    FRONT = "front"
    BACK = "back"


class Settled(IntEnum):
    """What became of a message that was to be settled; `FENCED`: the worker is not what the caller takes it for."""

    DONE = 1
    NOT_HELD = 0
    FENCED = -1


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A worker process and the one queue that it takes messages from."""

    worker_id: str
    queue: str

    @property
    def key(self) -> str:
        """The list of what it holds."""
        return keys.held(self.worker_id)


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """What to do with a held message `raw`: it is done with, or goes back to `end` of its queue as `again`."""

    raw: bytes
    end: End | None = None
    again: bytes = b""


def settle(client: redis.Redis, holder: Holder, settlement: Settlement) -> Settled:
    """Settle a message of a worker that lives: its own process asks. A full Redis does not refuse this."""
    answer: Any = client.eval(scripts.SETTLE_MESSAGE, 3, *_arguments(holder, settlement, lives=True))
    return Settled(answer)


async def settle_for_dead(client: redis.asyncio.Redis, holder: Holder, settlement: Settlement) -> Settled:
    """Settle a message of a worker that was declared dead: another process asks."""
    return Settled(await client.eval(scripts.SETTLE_MESSAGE, 3, *_arguments(holder, settlement, lives=False)))


def _arguments(holder: Holder, settlement: Settlement, *, lives: bool) -> Sequence[Any]:
    end = "" if settlement.end is None else settlement.end.value
    held = (keys.ALIVE, holder.key, holder.queue)
    return (*held, holder.worker_id, "1" if lives else "0", settlement.raw, end, settlement.again)


def count(client: redis.Redis, holder: Holder) -> int:
    """How many messages the worker holds."""
    held: Any = client.llen(holder.key)
    return int(held)


def read(client: redis.Redis, holder: Holder) -> list[bytes]:
    """All messages that the worker holds, the latest first."""
    held: Any = client.lrange(holder.key, 0, -1)
    return list(held)


def bury(client: redis.Redis, holder: Holder) -> bytes | None:
    """The latest message that the worker still holds; None when it held none and is forgotten now."""
    answer: Any = client.eval(scripts.BURY_WORKER, 3, *_grave(holder))
    return answer or None


async def bury_dead(client: redis.asyncio.Redis, holder: Holder) -> bytes | None:
    """Likewise, for a worker that was declared dead."""
    answer: Any = await client.eval(scripts.BURY_WORKER, 3, *_grave(holder))
    return answer or None


def _grave(holder: Holder) -> Sequence[Any]:
    return keys.ALIVE, keys.WORKER_QUEUES, holder.key, holder.worker_id, str(GONE_S * 1000)


def check_room(client: redis.Redis) -> None:
    """Ask whether Redis takes anything in, and change nothing. Raises `ResponseError` where it is full or may not write."""
    # Refused before it is looked at; where it is not, the key does not exist.
    client.set(keys.NOTHING, "", xx=True)


def gather_priorities(client: redis.Redis, queue: str) -> int:
    """Move what producers enqueued with a priority to the queue itself, in its turn; returns how many messages were moved."""
    lists = [f"{queue}{PRIORITY_SEPARATOR}{priority}" for priority in PRIORITIES]
    moved: Any = client.eval(scripts.GATHER_PRIORITIES, 1 + len(lists), queue, *lists, str(_GATHERED))
    return int(moved)
