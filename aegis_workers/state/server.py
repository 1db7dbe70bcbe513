"""What a Redis server must be like to be trusted with messages: a pure rule over what it says of itself."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import ResponseError

from aegis_workers.forms import without_password
from aegis_workers.settings import Settings

OLDEST = (6, 2)
_KEEPS_ALL = "noeviction"


class Level(StrEnum):
    """How much a finding matters: `missing` stops work, `warning` does not yet."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    level: Level
    detail: str


def read(client: redis.Redis) -> Sequence[Finding]:
    """What this server is like; one that keeps it from its user is a warning. Raises `RedisError` where it does not answer."""
    try:
        answer: Any = client.info()
    except ResponseError as error:
        return [_unanswered(error)]
    return list(findings(answer))


async def read_async(client: redis.asyncio.Redis) -> Sequence[Finding]:
    """The same, asked on the event loop."""
    try:
        answer: Any = await client.info()
    except ResponseError as error:
        return [_unanswered(error)]
    return list(findings(answer))


def findings(facts: Mapping[str, Any]) -> Iterator[Finding]:
    """What the facts of `INFO` mean. Valkey counts as the Redis version that it says it is."""
    yield _version(str(facts.get("redis_version", "unknown")))
    yield _eviction(facts.get("maxmemory_policy"))
    if facts.get("cluster_enabled") or facts.get("redis_mode") == "cluster":
        yield Finding(
            what="Redis Cluster", level=Level.MISSING, detail="on: keys that change together must be on one server; use one"
        )
    yield _persistence(persistent=bool(facts.get("aof_enabled")))


def unfit(found: Sequence[Finding]) -> str | None:
    """Why no worker may use this server, in words; None where one may."""
    reasons = [f"{finding.what.removeprefix('Redis ')} {finding.detail}" for finding in found if finding.level is Level.MISSING]
    return "; and ".join(reasons) or None


def refusal(found: Sequence[Finding], settings: Settings) -> str | None:
    """The sentence for a Redis that is unfit; None for one that is not."""
    reason = unfit(found)
    return reason and f"Redis at {without_password(settings.redis_url)} cannot be used ({reason})"


def _unanswered(error: ResponseError) -> Finding:
    if "HELLO" in str(error):  # how a connection begins since Redis 6
        return Finding(what="Redis version", level=Level.MISSING, detail="older than 6.0: 6.2 or newer is needed")
    return Finding(what="Redis", level=Level.WARNING, detail=f"does not tell what it is like ({error}): allow its user INFO")


def _version(version: str) -> Finding:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None:
        return Finding(what="Redis version", level=Level.WARNING, detail=f"{version}: 6.2 or newer is needed")
    recent = (int(numbers[1]), int(numbers[2])) >= OLDEST
    detail = version if recent else f"{version}: 6.2 or newer is needed"
    return Finding(what="Redis version", level=Level.OK if recent else Level.MISSING, detail=detail)


def _eviction(policy: str | None) -> Finding:
    what = "Redis eviction"
    if policy is None:
        return Finding(what=what, level=Level.WARNING, detail=f"unknown: make sure that maxmemory-policy is {_KEEPS_ALL}")
    keeps = policy == _KEEPS_ALL
    detail = policy if keeps else f"{policy}: a full Redis would drop queued tasks; set maxmemory-policy {_KEEPS_ALL}"
    return Finding(what=what, level=Level.OK if keeps else Level.MISSING, detail=detail)


def _persistence(*, persistent: bool) -> Finding:
    lost = "on" if persistent else "off: queued tasks are lost when Redis restarts; set appendonly yes"
    level = Level.OK if persistent else Level.WARNING
    return Finding(what="Redis persistence", level=level, detail=f"append-only file {lost}")
