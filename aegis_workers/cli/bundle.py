"""What one asks for at 3 a.m., in one file that may be mailed: how the system stands, and nobody's text or secret."""

import gzip
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import anyio
import redis

from aegis_workers import origins
from aegis_workers.cli import checkup
from aegis_workers.errors import AegisError
from aegis_workers.forms import without_secrets
from aegis_workers.jobs.desks import open_desk
from aegis_workers.overview import job_rows, snapshot
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import aside, backlog, connection, queues, switches, workers
from aegis_workers.worker import health

LEFT_OUT: Final = (
    "texts, messages, schemas and answers",
    "results of jobs and of tasks",
    "names, metadata and custom_ids, which are their submitters' own words",
    "what engines wrote: error messages and logs may quote a prompt; AEGIS_DATA_DIR/engines has those of the process driver",
    "the logs of our processes, which hold no text either: they are where standard output goes",
    "tokens, passwords and API keys",
)

_JOBS = 50
_PACKAGES = (
    "aegis-workers",
    "celery",
    "kombu",
    "redis",
    "flower",
    "httpx",
    "httpx-aiohttp",
    "aiohttp",
    "fastapi",
    "ollama",
    "vllm",
)
# What Redis says of itself that helps; not its paths, and nothing by key.
_OF_REDIS = (
    *("redis_version", "redis_mode", "os", "uptime_in_seconds", "connected_clients", "blocked_clients", "maxclients"),
    *("used_memory", "used_memory_rss", "used_memory_peak", "maxmemory", "maxmemory_policy", "mem_fragmentation_ratio"),
    *("loading", "aof_enabled", "aof_last_write_status", "aof_last_bgrewrite_status", "aof_delayed_fsync"),
    *("rdb_last_bgsave_status", "rdb_last_save_time", "latest_fork_usec", "instantaneous_ops_per_sec", "rejected_connections"),
    *("total_error_replies", "evicted_keys", "expired_keys", "role", "connected_slaves", "master_link_status"),
)
_OF_JOB = (
    *("id", "kind", "state", "waits", "created_at", "expires_at", "ended_at", "policy", "engine", "retry_of", "retries"),
    *("items", "done", "failed", "by_status", "chunks", "chunks_done", "in_flight", "attempts", "calls", "engine_s"),
    *("items_per_s", "tokens_per_s", "remaining_s"),
)
_OF_JOURNAL = ("at", "event", "state")
_SHORTEST_SECRET = 4


def collect(settings: Settings) -> dict[str, Any]:
    """All of it, ready for JSON. A part that cannot be had says why in its place; times are epoch seconds."""
    parts: Mapping[str, Callable[[], Any]] = {
        "versions": _versions,
        "settings": lambda: [asdict(setting) for setting in origins.explain(settings)],
        "findings": lambda: [asdict(finding) for finding in checkup.findings(settings)],
        "system": lambda: _asked(settings, lambda client: _system(client, settings)),
        "switches": lambda: _asked(settings, lambda client: [asdict(switch) for switch in switches.read(client)]),
        "workers": lambda: _asked(settings, lambda client: [asdict(report) for report in workers.read_all(client)]),
        "queues": lambda: anyio.run(_backlog, settings),
        "jobs": lambda: _jobs(settings),
        "set_aside": lambda: _asked(settings, _set_aside),
        "health_files": lambda: _health_files(settings),
        "redis": lambda: _asked(settings, _redis),
    }
    found = {name: _part(read) for name, read in parts.items()}
    whole = {"at": time.time(), "host": platform.node(), "left_out": list(LEFT_OUT), **found}
    return dict(_scrubbed(whole, _secrets(settings)))


def write(path: Path, bundle: Mapping[str, Any]) -> int:
    """Write it as JSON, for its owner's eyes only, compressed where the name ends in `.gz`; its bytes. Raises `OSError`."""
    content = json.dumps(bundle, indent=1, ensure_ascii=False, default=str).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 - pathlib sets no mode
        os.fchmod(file.fileno(), 0o600)  # it may have been there
        file.write(content)
    return len(content)


def _part(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except AegisError as error:
        return {"missing": str(error)}
    except Exception as error:  # noqa: BLE001 - the other parts are wanted all the more
        return {"missing": type(error).__name__}


def _asked(settings: Settings, ask: Callable[[redis.Redis], Any]) -> Any:
    with connection.explained(settings), connection.open_sync(settings) as client:
        return ask(client)


def _versions() -> dict[str, Any]:
    packages = {name: found for name in _PACKAGES if (found := _version(name)) is not None}
    return {"python": sys.version.split()[0], "platform": platform.platform(), "packages": packages}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _system(client: redis.Redis, settings: Settings) -> dict[str, Any]:
    """What `engines --json` says, but for what an engine wrote."""
    found = snapshot.take(client, settings)
    for engine in Engine:
        del found["engines"][engine.value]["said"]
    return found


async def _backlog(settings: Settings) -> list[dict[str, Any]]:
    with connection.explained(settings):
        async with connection.open_async(settings) as client:
            return [asdict(queue) for queue in await backlog.count(client, queues.NAMES)]


def _jobs(settings: Settings) -> list[dict[str, Any]]:
    """The newest jobs: their states, counts and journals."""
    with open_desk(settings) as desk:
        known = [job_rows.values(view) for view in desk.list(_JOBS).jobs]
    return [_chosen(job, _OF_JOB) | {"journal": [_chosen(entry, _OF_JOURNAL) for entry in job["journal"]]} for job in known]


def _set_aside(client: redis.Redis) -> list[dict[str, Any]]:
    return [
        {"id": entry.entry_id, "task": entry.task, "queue": entry.queue, "job": entry.job_id, "at": entry.at}
        for entry in aside.read_all(client)
    ]


def _health_files(settings: Settings) -> Any:
    if settings.health_dir is None:
        return {"missing": "AEGIS_HEALTH_DIR is not set"}
    try:
        return [asdict(said) for said in health.read_all(settings.health_dir)]
    except OSError as error:
        return {"missing": f"AEGIS_HEALTH_DIR: {error.strerror}"}


def _redis(client: redis.Redis) -> dict[str, Any]:
    facts: Any = client.info()
    return _chosen(facts, _OF_REDIS) | {name: fact for name, fact in facts.items() if name.startswith("db")}


def _chosen(facts: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: facts[name] for name in names if name in facts}


def _secrets(settings: Settings) -> frozenset[str]:
    """Whatever must not be in it, in case something said it elsewhere: in a reason, an address or a command."""
    hidden = [settings.vllm_api_key, settings.admin_token, settings.flower_auth, settings.redis_sentinel_password]
    words = [secret.get_secret_value() for secret in hidden if secret is not None]
    words += [word.partition(":")[2] for word in words]
    written = [urlsplit(url).password or "" for url in (settings.redis_url, *settings.vllm_url, *settings.ollama_url)]
    words += [*written, *map(unquote, written), settings.redis_address.password]
    return frozenset(word for word in words if len(word) >= _SHORTEST_SECRET)


def _scrubbed(value: Any, secrets: frozenset[str]) -> Any:
    match value:
        case str():
            for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
                value = value.replace(secret, "***")
            return without_secrets(value)
        case Mapping():
            return {_scrubbed(name, secrets): _scrubbed(part, secrets) for name, part in value.items()}
        case list() | tuple():
            return [_scrubbed(part, secrets) for part in value]
        case _:
            return value
