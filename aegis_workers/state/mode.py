"""The engine mode: one Redis key that anybody may write, and each process's memory of it."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import redis
import redis.asyncio
from redis.exceptions import ResponseError

from aegis_workers.errors import InvalidInput
from aegis_workers.routing import Engine, Mode
from aegis_workers.state import keys, scripts
from aegis_workers.state.cached import Cached
from aegis_workers.state.switches import Source

# How long a mode is believed when no push says that it changed: the bound that the operator is promised.
MAX_AGE_S = 30.0

# The keys of every script about the mode, and of those that note switches.
_KEYS: Final = (keys.MODE, keys.LAST_VALID_MODE)
_NOTED: Final = (*_KEYS, keys.SWITCHES)


@dataclass(frozen=True, kw_only=True)
class ModeReading:
    """The mode in force, and what the key held. `problem` says in words why they differ: it is missing, or another word."""

    mode: Mode
    problem: str | None = None
    raw: str | None = None


def parse(word: object) -> Mode:
    """The mode that `word` names, surrounding space and case aside. Raises `InvalidInput` for anything else."""
    if not isinstance(word, str):
        raise _unknown(f"({type(word).__name__})")
    try:
        return Mode(word.strip().lower())
    except ValueError:
        raise _unknown(repr(word.strip()[:40])) from None


def _unknown(shown: str) -> InvalidInput:
    return InvalidInput(f"unknown engine mode {shown}: choose {', '.join(Mode)}")


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
    reading, is_news = _understand(client.eval(scripts.READ_MODE, len(_KEYS), *_KEYS), default)
    if is_news:
        with suppress(ResponseError):  # a full Redis still says what the mode is
            client.eval(scripts.REMEMBER_MODE, len(_NOTED), *_NOTED, str(reading.raw), reading.mode.value)
    return reading


async def _read(client: redis.asyncio.Redis, default: Mode) -> ModeReading:
    """As `read`."""
    reading, is_news = _understand(await client.eval(scripts.READ_MODE, len(_KEYS), *_KEYS), default)
    if is_news:
        with suppress(ResponseError):  # a full Redis still says what the mode is
            await client.eval(scripts.REMEMBER_MODE, len(_NOTED), *_NOTED, str(reading.raw), reading.mode.value)
    return reading


def _understand(found: Any, default: Mode) -> tuple[ModeReading, bool]:
    """What `READ_MODE` found, and whether it is a valid mode that is not remembered as the last one."""
    raw, kind, last = found
    last_valid = Mode(last) if last in set(Mode) else default
    if kind is not None:
        problem = f"{keys.MODE} holds a {kind} and no word: choose {', '.join(Mode)}; {last_valid} stays in force"
        return ModeReading(mode=last_valid, problem=problem), False
    reading = interpret(raw, default=default, last_valid=last_valid)
    return reading, reading.problem is None and reading.mode != last


def write(client: redis.Redis, mode: Mode, source: Source) -> str | None:
    """Switch to `mode`; returns what the key held before.

    Has the controller try again what failed, also where the mode stays.
    """
    names = (*_NOTED, *(keys.engine(engine) for engine in Engine))
    previous: Any = client.eval(scripts.SET_MODE, len(names), *names, mode.value, source.value)
    return None if previous is None else str(previous)


async def write_default(client: redis.asyncio.Redis, mode: Mode) -> bool:
    """Write the configured mode where the key is absent, so that a restart never undoes an operator's switch."""
    return bool(await client.eval(scripts.DEFAULT_MODE, len(_NOTED), *_NOTED, mode.value))


def cache(client: redis.asyncio.Redis, default: Mode) -> Cached[ModeReading]:
    """This process's memory of the mode. Until Redis has answered once, the configured default, marked stale."""
    return Cached(lambda: _read(client, default), ModeReading(mode=default), max_age_s=MAX_AGE_S)
