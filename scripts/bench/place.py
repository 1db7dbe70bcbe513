"""A whole installation to measure: simulators and workers as real processes of their own, on the Redis of the run."""

import json
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import redis

from aegis_workers.local import children, environment, process
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import connection, keys

MODEL = "sim"
STOP_GRACE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """What runs. `workers` by queue."""

    settings: Settings
    redis: redis.Redis
    simulators: Mapping[Engine, Process]
    workers: Mapping[str, Process]

    def url(self, engine: Engine) -> str:
        """Base URL of the engine's simulator."""
        return self.settings.urls(engine)[0]

    def count(self, engine: Engine) -> Mapping[str, int]:
        """What the engine's simulator has counted."""
        with urllib.request.urlopen(f"{self.url(engine)}/_sim/stats", timeout=5) as response:  # noqa: S310 - on loopback
            counts: dict[str, int] = json.load(response)
        return counts

    def check(self) -> None:
        """Raises `ProcessFailed` if any process has ended."""
        for child in (*self.simulators.values(), *self.workers.values()):
            child.check()


@contextmanager
def running(
    redis_url: str, queues: Sequence[str], simulators: Mapping[Engine, Sequence[str]], **settings: Any
) -> Iterator[Place]:
    """Simulators with these options and a worker for each of `queues`, ready; they end with the block.

    `settings` by their field names; what they do not say has its default, whatever the environment says. The Redis is emptied
    first: every measurement begins alike.
    """
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aegis-bench-")))
        base = Settings(_env_file=None, redis_url=redis_url)
        started = {engine: _start_simulator(engine, options, base, logs) for engine, options in simulators.items()}
        stack.callback(process.stop, list(started.values()), STOP_GRACE_S)
        used: dict[str, Any] = {"redis_url": redis_url, "shutdown_grace_s": 2.0}
        for engine, child in started.items():
            used |= {f"{engine}_url": (children.address(child),), f"{engine}_model": MODEL}
        chosen = Settings(_env_file=None, **(used | settings))
        client = stack.enter_context(connection.open_sync(chosen))
        client.flushdb()
        workers: dict[str, Process] = {}
        stack.callback(lambda: process.stop(list(workers.values()), STOP_GRACE_S))
        workers.update({queue: children.start_worker(queue, chosen, logs) for queue in queues})
        children.await_workers(list(workers.values()), chosen)
        place = Place(settings=chosen, redis=client, simulators=started, workers=workers)
        await_engines(place) if queues else None
        yield place


def await_engines(place: Place) -> None:
    """Returns when the workers know that every engine is ready."""
    for engine, simulator in place.simulators.items():
        simulator.wait_ready(partial(_is_ready, place.redis, keys.engine(engine)), children.START_TIMEOUT_S)


def _is_ready(client: redis.Redis, key: str) -> bool:
    return bool(client.hget(key, "state") == "ready")


def _start_simulator(engine: Engine, options: Sequence[str], settings: Settings, logs: Path) -> Process:
    command = [sys.executable, "-m", "aegis_workers.cli", "simulate", engine.value, "--port", "0", *options]
    env = environment.of(settings) | {"PYTHONUNBUFFERED": "1"}
    return process.start(f"simulator-{engine}", command, log=logs / f"simulator-{engine}.log", env=env)
