"""The engine mode: one Redis key that anybody may write, and each process's memory of it."""

from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio

from aegis_workers.errors import InvalidInput
from aegis_workers.routing import Mode
from aegis_workers.state import keys, scripts
from aegis_workers.state.cached import Cached

# How long a mode is believed when no push says that it changed: the bound that the operator is promised.
MAX_AGE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class ModeReading:
    """The mode in force, and what the key held. `problem` says in words why they differ: it is missing, or another word."""

    mode: Mode
    problem: str | None = None
    raw: str | None = None


def parse(word: str) -> Mode:
    """The mode that `word` names, surrounding space and case aside. Raises `InvalidInput` for any other word."""
    try:
        return Mode(word.strip().lower())
    except ValueError:
        raise InvalidInput(f"unknown engine mode {word.strip()[:40]!r}: choose {', '.join(Mode)}") from None


def interpret(raw: str | None, *, default: Mode, last_valid: Mode) -> ModeReading:
    """What the key's content means: missing is the configured default, an unknown word leaves the last valid mode in force."""
    if raw is None:
        return ModeReading(mode=default, problem=f"{keys.MODE} is not set: the configured default is in force")
    try:
        return ModeReading(mode=parse(raw), raw=raw)
    except InvalidInput as error:
        return ModeReading(mode=last_valid, problem=f"{keys.MODE} holds an {error}; {last_valid} stays in force", raw=raw)


def read(client: redis.Redis, default: Mode) -> ModeReading:
    """The mode in force, asked of Redis now."""
    raw: Any = client.get(keys.MODE)
    return interpret(raw, default=default, last_valid=default)


def write(client: redis.Redis, mode: Mode) -> str | None:
    """Switch to `mode`; returns what the key held before."""
    previous: Any = client.eval(scripts.SET_MODE, 1, keys.MODE, mode.value)
    return None if previous is None else str(previous)


async def write_default(client: redis.asyncio.Redis, mode: Mode) -> bool:
    """Write the configured mode where the key is absent, so that a restart never undoes an operator's switch."""
    return bool(await client.set(keys.MODE, mode.value, nx=True))


def cache(client: redis.asyncio.Redis, default: Mode) -> Cached[ModeReading]:
    """This process's memory of the mode. Until Redis has answered once, the configured default, marked stale."""

    async def fetch() -> ModeReading:
        last_valid = memory.last.value.mode
        raw: Any = await client.get(keys.MODE)
        return interpret(raw, default=default, last_valid=last_valid)

    memory = Cached(fetch, ModeReading(mode=default), max_age_s=MAX_AGE_S)
    return memory
