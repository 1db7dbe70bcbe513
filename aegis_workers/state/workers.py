"""Which worker processes live, and what their calls do and wait for."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import redis
import redis.asyncio

from aegis_workers.state import keys

TTL_S = 15.0
REFRESH_S = 2.0
# What the clocks of two hosts may differ by is not a reason to forget a worker.
_FORGOTTEN_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class WorkerReport:
    """One worker process. `in_flight` counts calls by engine, `waiting` counts calls by what they wait for, in words.

    `seen_at`: when it last said so, in epoch seconds of its own clock.
    """

    worker_id: str
    queue: str
    pid: int
    in_flight: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    tokens_per_s: Mapping[str, float] = field(default_factory=dict)
    mode: str | None = None
    seen_at: float | None = field(default=None, compare=False)


async def publish(client: redis.asyncio.Redis, report: WorkerReport) -> None:
    """Say that the worker lives and what it does; holds for `TTL_S` seconds."""
    now_s = time.time()
    async with client.pipeline(transaction=True) as pipe:
        pipe.set(keys.worker(report.worker_id), json.dumps(asdict(report)), px=int(TTL_S * 1000))
        pipe.zadd(keys.WORKERS, {report.worker_id: now_s})
        pipe.zremrangebyscore(keys.WORKERS, "-inf", now_s - _FORGOTTEN_S)
        await pipe.execute()


async def withdraw(client: redis.asyncio.Redis, worker_id: str) -> None:
    """Say that the worker has gone."""
    async with client.pipeline(transaction=True) as pipe:
        pipe.delete(keys.worker(worker_id))
        pipe.zrem(keys.WORKERS, worker_id)
        await pipe.execute()


def read_all(client: redis.Redis) -> list[WorkerReport]:
    """Every worker that lives, in the order of their ids."""
    seen: Any = client.zrange(keys.WORKERS, 0, -1, withscores=True)
    found = sorted((name, float(score)) for name, score in seen)
    values: Any = client.mget([keys.worker(name) for name, _ in found]) if found else []
    return [_decode(value, seen_at) for value, (_, seen_at) in zip(values, found, strict=True) if value]


def _decode(value: str, seen_at: float) -> WorkerReport:
    # What a newer version adds is passed over: workers are not all updated at once.
    known = set(WorkerReport.__dataclass_fields__) - {"seen_at"}
    return WorkerReport(seen_at=seen_at, **{name: fact for name, fact in json.loads(value).items() if name in known})
