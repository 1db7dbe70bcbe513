"""The memory of the engines' host, as the leading controller last measured it."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

import redis
import redis.asyncio

from aegis_workers.state import control_scripts, keys
from aegis_workers.state.jobs import Ruling, ruling

# How long a measurement is believed when no other one follows.
TTL_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What was measured, None where it cannot be; `source` says with what.

    `room_for_both`: whether both engines fit at once; `why` says so with the numbers.
    """

    free_gb: float | None
    total_gb: float | None
    source: str
    room_for_both: bool
    why: str = ""


# What a newer version adds is passed over: processes are not all updated at once.
_FIELDS = set(Memory.__dataclass_fields__)


async def write(client: redis.asyncio.Redis, token: int, memory: Memory) -> Ruling:
    """Share what was measured, for `TTL_S` seconds: `done`, or `not_leader` under an old token. Raises `RedisError`."""
    names = keys.CONTROLLER, keys.MEMORY
    said = json.dumps(asdict(memory))
    found: Any = await client.eval(control_scripts.SET_MEMORY, 2, *names, str(token), said, str(int(TTL_S * 1000)))
    return ruling(found)


def read(client: redis.Redis) -> Memory | None:
    """What was last measured; None where no controller does so."""
    return _decode(client.get(keys.MEMORY))


def _decode(written: Any) -> Memory | None:
    with suppress(ValueError, TypeError, AttributeError):
        return Memory(**{name: fact for name, fact in json.loads(written or "").items() if name in _FIELDS})
    return None
