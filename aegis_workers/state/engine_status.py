"""What each engine was last found to be, shared by all processes through Redis."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import redis
import redis.asyncio

from aegis_workers.engines.base import Probe, Readiness
from aegis_workers.routing import Engine
from aegis_workers.state import breaker, engine_control, keys, scripts
from aegis_workers.state.breaker import CLOSED, Breaker
from aegis_workers.state.cached import Cached
from aegis_workers.state.engine_control import Control, Phase

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

    `epoch`: another one means that whatever was decided about the engine before does not hold any more. `control`: what the
    leading controller makes of the engine, None where none ever led. `fenced`: no call is admitted to it. `asked_at`: when an
    operator last chose a mode, by Redis's clock.
    """

    state: Readiness
    reason: str
    since: float | None = None
    probed_at: float | None = None
    replicas: tuple[ReplicaStatus, ...] = ()
    epoch: str = ""
    control: Control | None = None
    fenced: bool = False
    asked_at: float | None = None

    @property
    def is_starting(self) -> bool:
        """Whether it is on its way to serve: by its controller's word while it is fenced, else as it was found."""
        if self.fenced:
            return self.control is not None and self.control.phase in _COMING
        return self.state is Readiness.STARTING

    @property
    def is_closing(self) -> bool:
        """Whether the calls that are in flight there are to be closed."""
        return self.fenced and self.control is not None and self.control.closing

    @property
    def fence_reason(self) -> str:
        """Why no call is admitted to it, in words; empty where it is not fenced."""
        if not self.fenced:
            return ""
        return (self.control and self.control.reason) or "the controller has fenced it"

    @property
    def ready_urls(self) -> tuple[str, ...]:
        """Base URLs of the replicas that would answer a call."""
        return tuple(replica.url for replica in self.replicas if replica.state is Readiness.READY)


_COMING = frozenset({Phase.STARTING, Phase.WARMING})

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
    found = _found(fields) if "state" in fields else UNKNOWN
    return replace(
        found,
        epoch=fields.get(keys.EPOCH_FIELD, ""),
        control=engine_control.decode(fields.get(keys.CONTROL_FIELD)),
        fenced=keys.FENCE_FIELD in fields,
        asked_at=float(fields[keys.ASKED_FIELD]) if keys.ASKED_FIELD in fields else None,
    )


def _found(fields: Mapping[str, str]) -> EngineStatus:
    urls = (name.removeprefix("replica:") for name in fields if name.startswith("replica:"))
    return EngineStatus(
        state=Readiness(fields["state"]),
        reason=fields.get("reason", ""),
        since=float(fields["since"]),
        probed_at=float(fields["probed_at"]) if "probed_at" in fields else None,
        replicas=tuple(_replica(url, fields) for url in sorted(urls)),
    )


def _replica(url: str, fields: Mapping[str, str]) -> ReplicaStatus:
    facts = {name: fact for name, fact in json.loads(fields[f"replica:{url}"]).items() if name in _REPLICA_FIELDS}
    found = breaker.decode(fields.get(keys.breaker_field(url)))
    return ReplicaStatus(url=url, **facts | {"state": Readiness(facts["state"])}, breaker=found)
