"""What each engine was last found to be, shared by all processes through Redis."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import redis
import redis.asyncio

from aegis_workers.engines.base import Probe, Readiness
from aegis_workers.routing import Engine
from aegis_workers.state import breaker, keys, scripts
from aegis_workers.state.breaker import CLOSED, Breaker
from aegis_workers.state.cached import Cached

# Read again this often without a push; a change of state comes by push.
MAX_AGE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class ReplicaStatus:
    """One replica. `since` is epoch seconds; `running` and `waiting` are the engine's own counts, None where it gives none."""

    url: str
    state: Readiness
    reason: str = ""
    since: float = 0.0
    version: str | None = None
    loaded: bool = False
    running: int | None = None
    waiting: int | None = None
    breaker: Breaker = CLOSED


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """An engine as its best replica is. Times in epoch seconds; `probed_at` is None where nobody has looked yet.

    `epoch`: another one means that whatever was decided about the engine before does not hold any more.
    """

    state: Readiness
    reason: str
    since: float | None = None
    probed_at: float | None = None
    replicas: tuple[ReplicaStatus, ...] = ()
    epoch: str = ""

    @property
    def ready_urls(self) -> tuple[str, ...]:
        """Base URLs of the replicas that would answer a call."""
        return tuple(replica.url for replica in self.replicas if replica.state is Readiness.READY)


# What a newer version adds is passed over: workers are not all updated at once.
_REPLICA_FIELDS = set(ReplicaStatus.__dataclass_fields__) - {"url", "breaker"}

UNKNOWN = EngineStatus(state=Readiness.UNAVAILABLE, reason="not probed yet")

Statuses = Mapping[Engine, EngineStatus]


def observed(url: str, probe: Probe) -> ReplicaStatus:
    """A probe's finding as a status."""
    return ReplicaStatus(
        url=url,
        state=probe.readiness,
        reason=probe.reason,
        version=probe.version,
        loaded=probe.loaded,
        running=probe.running,
        waiting=probe.waiting,
    )


async def report(
    client: redis.asyncio.Redis, engine: Engine, replicas: Sequence[ReplicaStatus], *, complete: bool, now: float | None = None
) -> None:
    """Share what was found of `replicas`. `complete`: these are all there are, others that are on record are gone."""
    found = [part for replica in replicas for part in (replica.url, json.dumps(_facts(replica)))]
    moment = time.time() if now is None else now
    await client.eval(scripts.REPORT_ENGINE, 1, keys.engine(engine), repr(moment), "1" if complete else "0", *found)


def _facts(replica: ReplicaStatus) -> dict[str, Any]:
    return {name: value for name, value in asdict(replica).items() if name not in {"url", "since", "breaker"}}


def read(client: redis.Redis, engine: Engine) -> EngineStatus:
    """The status on record, asked of Redis now."""
    return _decode(client.hgetall(keys.engine(engine)))


def cache(client: redis.asyncio.Redis) -> Cached[Statuses]:
    """This process's memory of all engines."""

    async def fetch() -> Statuses:
        async with client.pipeline(transaction=False) as pipe:
            for engine in Engine:
                pipe.hgetall(keys.engine(engine))
            return {engine: _decode(fields) for engine, fields in zip(Engine, await pipe.execute(), strict=True)}

    return Cached(fetch, dict.fromkeys(Engine, UNKNOWN), max_age_s=MAX_AGE_S)


def _decode(fields: Any) -> EngineStatus:
    if "state" not in fields:
        return UNKNOWN
    urls = (name.removeprefix("replica:") for name in fields if name.startswith("replica:"))
    return EngineStatus(
        state=Readiness(fields["state"]),
        reason=fields.get("reason", ""),
        since=float(fields["since"]),
        probed_at=float(fields["probed_at"]) if "probed_at" in fields else None,
        replicas=tuple(_replica(url, fields) for url in sorted(urls)),
        epoch=fields.get("epoch", ""),
    )


def _replica(url: str, fields: Mapping[str, str]) -> ReplicaStatus:
    facts = {name: fact for name, fact in json.loads(fields[f"replica:{url}"]).items() if name in _REPLICA_FIELDS}
    found = breaker.decode(fields.get(keys.breaker_field(url)))
    return ReplicaStatus(url=url, **facts | {"state": Readiness(facts["state"])}, breaker=found)
