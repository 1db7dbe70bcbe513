"""What the leading controller makes of each engine, shared by all processes through Redis.

It lies beside what the prober finds: a process that routes needs both, and gets both by the same push.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import redis.asyncio

from aegis_workers.routing import Engine
from aegis_workers.state import control_scripts, keys
from aegis_workers.state.jobs import Ruling, ruling


class Phase(StrEnum):
    """Where an engine is in its life, as the controller leads it."""

    STOPPED = "stopped"
    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Control:
    """An engine as the leader leads it. Times in epoch seconds.

    `fenced`: no call is admitted to it. `closing`: the calls in flight there are closed and go back to waiting. `driver`: the
    word of the setting. `said`: the last lines that an engine wrote before its start failed, which may hold a user's text: they
    are for operators who ask, and never in `reason`, which logs and results carry. `failures`: failed starts since it last was
    ready or an operator asked anew. `retry_at`: no start before it. `origin`: where the setting came from that decided about it,
    in words such as "PROFILE=chat_only". `began`: when the wait began that the phase has a limit for: for memory in `stopped`,
    for the engine to be ready in `starting` and `warming`, for an answer in `ready`.
    """

    phase: Phase
    since: float
    reason: str = ""
    said: str = ""
    fenced: bool = False
    closing: bool = False
    driver: str = "external"
    failures: int = 0
    retry_at: float | None = None
    origin: str = ""
    began: float | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What stands in Redis about an engine. `written`: the control as it lies there, for whoever writes the next one.

    `asked_at`: when an operator last chose a mode, in epoch seconds of Redis's clock.
    """

    control: Control | None = None
    written: str = ""
    asked_at: float | None = None


# What a newer version adds is passed over: processes are not all updated at once.
_FIELDS = set(Control.__dataclass_fields__) - {"phase"}


def encode(control: Control) -> str:
    """The control as it is written."""
    return json.dumps(asdict(control))


def decode(written: str | None) -> Control | None:
    """What was written; None where nothing was, or what this version cannot read."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        facts = json.loads(written or "")
        return Control(phase=Phase(facts["phase"]), **{name: fact for name, fact in facts.items() if name in _FIELDS})
    return None


async def write(client: redis.asyncio.Redis, token: int, engine: Engine, control: Control, *, instead_of: str) -> Ruling:
    """Say what the leader makes of an engine, and fence it or open it with the same step.

    `instead_of`: what is written of the engine, as the leader read it when it decided (`Record.written`, "" for nothing). Returns
    `done`; `not_leader` under an old token; `moved` where something else is written. Raises `RedisError`: then it may have
    happened or not.
    """
    names = keys.CONTROLLER, keys.engine(engine)
    fence = "1" if control.fenced else "0"
    found: Any = await client.eval(control_scripts.SET_CONTROL, 2, *names, str(token), instead_of, encode(control), fence)
    return ruling(found)


async def read_all(client: redis.asyncio.Redis) -> Mapping[Engine, Record]:
    """What stands in Redis about each engine now."""
    async with client.pipeline(transaction=False) as pipe:
        for engine in Engine:
            pipe.hmget(keys.engine(engine), [keys.CONTROL_FIELD, keys.ASKED_FIELD])
        return {engine: _record(*found) for engine, found in zip(Engine, await pipe.execute(), strict=True)}


def _record(written: str | None, asked: str | None) -> Record:
    return Record(control=decode(written), written=written or "", asked_at=None if asked is None else float(asked))
