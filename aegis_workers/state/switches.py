"""The history of the mode: every switch with its moment, who made it and what it replaced, and how long its phases took."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final

import redis
import redis.asyncio
from redis.exceptions import ResponseError

from aegis_workers.routing import Engine, Mode
from aegis_workers.state import keys, scripts
from aegis_workers.state.engine_control import Phase

# Phases that began this long after a switch, or during it, are of that switch: an engine may have to dwell first.
_FOLLOWS_WITHIN_S: Final = 30.0


class Source(StrEnum):
    """Who switched. `raw`: somebody wrote the key by hand. `default`: a process that started found no mode."""

    API = "api"
    CLI = "cli"
    TASK = "task"
    PYTHON = "python"
    RAW = "raw"
    DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class Lasted:
    """How long an engine was in a phase."""

    engine: Engine
    phase: Phase
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Course:
    """How the engines followed: from `began` (epoch seconds of Redis's clock) until nothing moved any more, `seconds` later."""

    began: float
    seconds: float
    phases: Sequence[Lasted]


@dataclass(frozen=True, kw_only=True)
class Switch:
    """One write of the mode. `at`: epoch seconds of Redis's clock; one by hand is noted when it is read for the first time.

    `previous`: the mode that was in force, None where none was written. `phases`: empty until the engines have
    followed, and where none had to.
    """

    at: float
    mode: Mode
    previous: Mode | None
    source: Source
    phases: Sequence[Lasted] = ()


def read(client: redis.Redis, limit: int = scripts.SWITCHES) -> Sequence[Switch]:
    """The last switches, the newest first; at most 200 are kept. Raises `RedisError`."""
    entries: Any = client.xrange(keys.SWITCHES)
    return _switches(entries)[::-1][:limit]


async def finish(client: redis.asyncio.Redis, course: Course) -> None:
    """Note how the engines followed the last switch. A Redis that is full goes without."""
    with suppress(ResponseError):
        await client.xadd(keys.SWITCHES, {"course": json.dumps(asdict(course))}, maxlen=scripts.SWITCHES, approximate=False)


def _switches(entries: Iterable[tuple[str, dict[str, str]]]) -> list[Switch]:
    found: list[Switch] = []
    for number, fields in entries:
        with suppress(ValueError, TypeError, KeyError):  # what a newer version adds is passed over
            if "course" in fields:
                _follow(found, json.loads(fields["course"]))
            else:
                found.append(_switch(number, fields))
    return found


def _switch(number: str, fields: dict[str, str]) -> Switch:
    return Switch(
        at=int(number.partition("-")[0]) / 1000,
        mode=Mode(fields["mode"]),
        previous=Mode(fields["previous"]) if fields["previous"] else None,
        source=Source(fields["source"]),
    )


def _follow(found: list[Switch], course: dict[str, Any]) -> None:
    """Adds the phases to the last switch, where they are its."""
    if not found or found[-1].at < course["began"] - _FOLLOWS_WITHIN_S:
        return
    phases = [Lasted(engine=Engine(one["engine"]), phase=Phase(one["phase"]), seconds=one["seconds"]) for one in course["phases"]]
    found[-1] = replace(found[-1], phases=[*found[-1].phases, *phases])
