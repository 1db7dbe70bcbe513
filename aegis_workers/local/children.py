"""The kinds of children that a system has: how each is started, and how one sees that it is ready."""

import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from aegis_workers.local import environment, process
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import connection, workers

# One worker process a queue, each with its own Celery options: admin tasks take no time, so one thread is enough for them.
WORKERS: Mapping[str, Sequence[str]] = {"extraction": (), "chat": (), "control": ("--concurrency", "1")}
FLOWER_PORT = 5555
ADMIN_PORT = 8080
START_TIMEOUT_S = 60.0

# Nothing here uses what mingle and gossip tell, and a worker is ready a second earlier without mingle.
_WORKER_OPTIONS = ("--loglevel", "info", "--without-mingle", "--without-gossip")
_CONTROLS = re.compile(r"controller\.(leads|stands_by)")
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+(?=[\s,])")  # not before the port is written to its end


def start_simulator(engine: Engine, settings: Settings, logs: Path) -> Process:
    """A simulator of `engine` on a free port, which it prints."""
    command = ["-m", "aegis_workers.cli", "simulate", engine.value, "--port", "0"]
    return _start(f"simulator-{engine}", command, settings, logs)


def start_worker(queue: str, settings: Settings, logs: Path, *more: str) -> Process:
    """A Celery worker for `queue`; `more` are further options of Celery's command line."""
    options = ["--queues", queue, "--hostname", f"{queue}@%h", *_WORKER_OPTIONS, *WORKERS[queue], *more]
    return _start(f"worker-{queue}", ["-m", "celery", "-A", "aegis_workers", "worker", *options], settings, logs)


def await_workers(children: Sequence[Process], settings: Settings) -> None:
    """Returns when every one of these workers says in Redis that it lives. Raises `ProcessFailed` if one does not."""
    with connection.open_sync(settings) as client:

        def lives(child: Process) -> bool:
            return child.pid in {worker.pid for worker in workers.read_all(client)}

        for child in children:
            child.wait_ready(partial(lives, child), START_TIMEOUT_S)


def start_flower(port: int, settings: Settings, logs: Path) -> Process:
    """Flower on loopback, behind the login of the settings if they have one; port 0 is any free one."""
    return _start("flower", ["-m", "aegis_workers.cli", "flower", "--port", str(port)], settings, logs)


def start_controller(settings: Settings, logs: Path) -> Process:
    """The controller of jobs."""
    return _start("controller", ["-m", "aegis_workers.cli", "controller"], settings, logs)


def await_controller(child: Process) -> None:
    """Returns when the controller leads, or stands by for another. Raises `ProcessFailed` if it does not."""
    child.wait_ready(lambda: _CONTROLS.search(child.log_text()) is not None, START_TIMEOUT_S)


def start_admin(port: int, settings: Settings, logs: Path) -> Process:
    """The admin API on loopback, behind the token of `settings.admin_token` if there is one; port 0 is any free one."""
    return _start("admin", ["-m", "aegis_workers.cli", "admin", "--port", str(port)], settings, logs)


def address(child: Process) -> str:
    """The base URL that a simulator, Flower or the admin API prints once it listens. Raises `ProcessFailed` if it does not."""
    child.wait_ready(lambda: _ADDRESS.search(child.log_text()) is not None, START_TIMEOUT_S)
    return str(_ADDRESS.findall(child.log_text())[0])


def _start(name: str, arguments: Sequence[str], settings: Settings, logs: Path) -> Process:
    env = environment.of(settings) | {"PYTHONUNBUFFERED": "1"}
    return process.start(name, [sys.executable, *arguments], log=logs / f"{name}.log", env=env)
