"""Which worker processes live, and what their calls do and wait for."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import redis
import redis.asyncio

from aegis_workers.state import keys

TTL_S = 15.0
REFRESH_S = 2.0


@dataclass(frozen=True, kw_only=True)
class WorkerReport:
    """One worker process. `in_flight` counts calls by engine, `waiting` counts calls by what they wait for, in words."""

    worker_id: str
    queue: str
    pid: int
    in_flight: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    tokens_per_s: Mapping[str, float] = field(default_factory=dict)
    mode: str | None = None


async def publish(client: redis.asyncio.Redis, report: WorkerReport) -> None:
    """Say that the worker lives and what it does; holds for `TTL_S` seconds."""
    await client.set(keys.worker(report.worker_id), json.dumps(asdict(report)), px=int(TTL_S * 1000))


async def withdraw(client: redis.asyncio.Redis, worker_id: str) -> None:
    """Say that the worker has gone."""
    await client.delete(keys.worker(worker_id))


def read_all(client: redis.Redis) -> list[WorkerReport]:
    """Every worker that lives, in the order of their ids."""
    names = sorted(client.scan_iter(match=f"{keys.WORKER_PREFIX}*", count=1000))
    values: Any = client.mget(names) if names else []
    return [_decode(value) for value in values if value]


def _decode(value: str) -> WorkerReport:
    # What a newer version adds is passed over: workers are not all updated at once.
    known = WorkerReport.__dataclass_fields__
    return WorkerReport(**{name: fact for name, fact in json.loads(value).items() if name in known})
