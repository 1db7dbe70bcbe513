"""Slots: the right to have one call in flight at a replica, leased in Redis and counted over all workers on all hosts."""

import asyncio
import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import redis.asyncio

from aegis_workers.routing import Engine, Lane
from aegis_workers.state import breaker, connection, keys, slot_scripts
from aegis_workers.state.cancels import Cancel

# A lease ends this long after its worker last held on to it, and is held on to this often.
LEASE_S: Final = 20.0
REFRESH_S: Final = 5.0
# How long a worker that waits for a slot is waited for by those that would take the next one. It asks again more often.
DEMAND_S: Final = 1.0


class Ended(StrEnum):
    """What a call says of its replica when it gives its slot back; `other`: nothing, it was ended from outside."""

    SERVED = "served"
    FAILED = "failed"
    OTHER = "other"


class Refusal(StrEnum):
    """Why a lane got no slot, or not all it wanted.

    `mode` and `engine`: the decision rested on what is no longer so, as where the engine is fenced. `breaker`: every ready
    replica's breaker is open.
    """

    FULL = "full"
    BREAKER = "breaker"
    ENGINE = "engine"
    MODE = "mode"


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A replica with the calls that it may have in flight, and how many of them are kept for the interactive lane."""

    url: str
    limit: int
    kept: int


@dataclass(frozen=True, kw_only=True)
class Want:
    """A call that asks for a slot. `again`: it may have one already, from an earlier delivery or an answer that was lost.

    `begun`: its task has been at an engine with other calls, so that only `terminate` ends it.
    """

    call_id: str
    task_id: str
    lane: Lane
    again: bool = False
    begun: bool = False


@dataclass(frozen=True, kw_only=True)
class Give:
    """A slot that is given back."""

    call_id: str
    lane: Lane
    url: str
    ended: Ended


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What one engine's slots are given back and asked for, and what the asking was decided on.

    `mode` is what the mode key held, None where it was missing; `epoch` is the engine's. Of several wants those of the
    interactive lane come first; within a lane they are served in order.
    """

    engine: Engine
    replicas: Sequence[Replica]
    mode: str | None
    epoch: str
    gives: Sequence[Give] = ()
    wants: Sequence[Want] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One entry for each want: the URL of its replica, or None. `cancelled`: how the task of a want was ended, by call id.

    `others_wait`: another worker waits for a slot of this engine.
    """

    urls: Sequence[str | None]
    cancelled: Mapping[str, Cancel]
    refusals: Mapping[Lane, Refusal]
    others_wait: bool


Held = Mapping[tuple[str, Lane], Collection[str]]


class Slots:
    """This worker's way to the slots. Commands are sent one after another: the caller awaits each before the next."""

    def __init__(self, client: redis.asyncio.Redis, worker_id: str, *, trial_s: float) -> None:
        self._client = client
        self._worker_id = worker_id
        self._trial_ms = int(trial_s * 1000)
        self._exchange = client.register_script(slot_scripts.EXCHANGE_SLOTS)
        self._refresh = client.register_script(slot_scripts.REFRESH_SLOTS)
        self._ahead_s: float | None = None

    def now_ms(self) -> int:
        """Redis's clock, as far as it is known here: exact to the time that an answer takes."""
        return int((time.time() + (self._ahead_s or 0.0)) * 1000)

    async def exchange(self, asked: Exchange) -> Outcome:
        """Gives back and takes, in one step. Raises `RedisError`; then it may have happened or not."""
        if self._ahead_s is None:
            await self.refresh({})
        async with asyncio.timeout(connection.SOCKET_TIMEOUT_S):
            answer: Any = await self._exchange(keys=_keys(asked), args=[json.dumps(self._question(asked))])
        return _outcome(asked, answer)

    async def refresh(self, held: Held) -> None:
        """Holds on to the leases of calls in flight, which may have ended while Redis was away; and reads Redis's clock."""
        names = [keys.slots(url, lane) for url, lane in held]
        members = [[self._member(call_id) for call_id in call_ids] for call_ids in held.values()]
        sent = time.time()
        async with asyncio.timeout(connection.SOCKET_TIMEOUT_S):
            seconds, micros = await self._refresh(keys=names, args=[int(LEASE_S * 1000), json.dumps(members)])
        self._ahead_s = int(seconds) + int(micros) / 1e6 - (sent + time.time()) / 2

    def _question(self, asked: Exchange) -> dict[str, Any]:
        number = {replica.url: index for index, replica in enumerate(asked.replicas, 1)}
        return {
            "worker": self._worker_id,
            "now": self.now_ms(),
            "lease_ms": int(LEASE_S * 1000),
            "demand_ms": int(DEMAND_S * 1000),
            "trial_ms": self._trial_ms,
            "failures": breaker.FAILURES_TO_OPEN,
            "first_open_ms": int(breaker.FIRST_OPEN_S * 1000),
            "longest_open_ms": int(breaker.LONGEST_OPEN_S * 1000),
            "mode": _as_script_reads(asked.mode),
            "epoch": asked.epoch,
            "replicas": [[replica.url, replica.limit, replica.kept] for replica in asked.replicas],
            "gives": [[number[give.url], _LANES.index(give.lane) + 1, give.call_id, give.ended] for give in asked.gives],
            "wants": [[_LANES.index(want.lane) + 1, want.call_id, want.again, want.begun] for want in asked.wants],
        }

    def _member(self, call_id: str) -> str:
        return f"{self._worker_id}|{call_id}"


def _as_script_reads(mode: str | None) -> str | bool:
    """A missing key is false, and bytes that are no text are true: the script cannot compare them with what was decoded."""
    if mode is None or "\ufffd" in mode:
        return mode is not None
    return mode


_CANCELS: Final = {-1: Cancel.REVOKE, -2: Cancel.TERMINATE}

# Their order is that of their keys.
_LANES: Final = (Lane.BULK, Lane.INTERACTIVE)


def _keys(asked: Exchange) -> list[str]:
    return [
        keys.MODE,
        keys.engine(asked.engine),
        keys.freed(asked.engine),
        *(keys.demand(asked.engine, lane) for lane in _LANES),
        *(keys.slots(replica.url, lane) for replica in asked.replicas for lane in _LANES),
        *(keys.cancelled(want.task_id) for want in asked.wants),
    ]


def _outcome(asked: Exchange, answer: Sequence[Any]) -> Outcome:
    """The script answers with a refusal or nothing for each lane, then whether others wait, then a number for each want."""
    said, others_wait, numbers = answer[: len(_LANES)], answer[len(_LANES)], [int(number) for number in answer[len(_LANES) + 1 :]]
    return Outcome(
        urls=[asked.replicas[number - 1].url if number > 0 else None for number in numbers],
        cancelled={want.call_id: _CANCELS[number] for want, number in zip(asked.wants, numbers, strict=True) if number < 0},
        refusals={lane: Refusal(word) for lane, word in zip(_LANES, said, strict=True) if word},
        others_wait=bool(others_wait),
    )


async def forget(client: redis.asyncio.Redis, worker_id: str, urls: Iterable[str]) -> int:
    """Takes back the slots that a dead worker had at the replicas `urls`, and lets another call be the trial that its call was.

    Returns how many slots it had.
    """
    names = _leases(urls)
    engines = [keys.engine(engine) for engine in Engine]
    return int(await client.eval(slot_scripts.FORGET_SLOTS, len(engines) + len(names), *engines, *names, worker_id, len(engines)))


async def count(client: redis.asyncio.Redis, urls: Iterable[str]) -> int:
    """Calls in flight at the replicas `urls`, over all workers.

    A lease that ended long ago, and that no worker took back because none lives, is not counted. One that ended a moment ago is:
    Redis may have been away, and its call runs.
    """
    names = _leases(urls)
    return int(await client.eval(slot_scripts.COUNT_SLOTS, len(names), *names, str(int(REFRESH_S * 1000)))) if names else 0


async def expire(client: redis.asyncio.Redis, urls: Iterable[str]) -> int:
    """Takes back the slots of the replicas `urls` whose leases have ended; how many.

    Not for a Redis that has just been away: see the reaper.
    """
    names = _leases(urls)
    return int(await client.eval(slot_scripts.EXPIRE_SLOTS, len(names), *names)) if names else 0


def _leases(urls: Iterable[str]) -> list[str]:
    return [keys.slots(url, lane) for url in urls for lane in _LANES]


async def close_breaker(client: redis.asyncio.Redis, engine: Engine, url: str) -> None:
    """The replica has proved that it serves: let calls through at once."""
    await client.hdel(keys.engine(engine), keys.breaker_field(url))
