"""A whole installation for a test: a Redis, two simulators and workers, all real processes of its own."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import redis
from celery import Celery
from celery.result import AsyncResult

from aegis_workers.local import children, environment, process, redis_server
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import connection, keys
from aegis_workers.worker import brokerage

NO_REDIS = "redis://127.0.0.1:1/0"  # nobody listens there: a private one is started
WITHIN_S = 20.0


def eventually(holds: Callable[[], Any], *, within_s: float = WITHIN_S) -> Any:
    """What `holds` returns once it is true; fails the test when that takes too long."""
    deadline = time.monotonic() + within_s
    while not (value := holds()):
        assert time.monotonic() < deadline, f"did not happen within {within_s:g} s"
        time.sleep(0.01)
    return value


@dataclass
class Installation:
    """`producer` is a bare Celery application that knows nothing of this package but names."""

    settings: Settings
    server: redis_server.RedisServer
    redis: redis.Redis
    producer: Celery
    logs: Path
    simulators: dict[Engine, Process]
    options: Mapping[Engine, Sequence[str]]
    workers: list[Process] = field(default_factory=list)

    def start_workers(self, *queues: str, options: Sequence[str] = ()) -> list[Process]:
        """Workers for `queues`, ready for tasks; `options` are further ones of Celery's command line."""
        started = []
        for queue in queues:
            folder = self.logs / f"{queue}-{len(self.workers)}"
            folder.mkdir()
            started.append(children.start_worker(queue, self.settings, folder, *options))
            self.workers.append(started[-1])
        children.await_workers(started, self.settings)
        return started

    def await_engines(self, *engines: Engine) -> None:
        """Returns when `engines` are ready in the eyes of the workers."""
        eventually(lambda: all(self.redis.hget(keys.engine(engine), "state") == "ready" for engine in engines))

    def send(
        self, name: str, *, headers: Mapping[str, Any] | None = None, task_id: str | None = None, **arguments: Any
    ) -> AsyncResult:
        """Enqueue a task by its name, as a producer without this package does."""
        queue = {"aegis.extract": "extraction", "aegis.extract_batch": "extraction"}.get(name, "chat")
        queue = "control" if name.endswith("_mode") else queue
        kwargs = {**arguments, "version": 1}
        return self.producer.send_task(name, kwargs=kwargs, queue=queue, headers=headers, task_id=task_id)

    def chat(self, text: str = "Hello there.", **arguments: Any) -> AsyncResult:
        """Enqueue a chat."""
        return self.send("aegis.chat", messages=[{"role": "user", "content": text}], **arguments)

    def python(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What another program does and says here: `script` in an interpreter of its own, with this installation's settings."""
        return self.run([sys.executable, "-c", script, *arguments])

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What `aegis-workers` does and says here."""
        return self.run([sys.executable, "-m", "aegis_workers.cli", *arguments])

    @property
    def environment(self) -> dict[str, str]:
        """That of every process here."""
        return environment.of(self.settings)

    def redis_cli(self, *arguments: str) -> str:
        """What `redis-cli`, which lies beside the server, says to a command."""
        binary = redis_server.find_binary()
        assert binary is not None
        client = binary.path.with_name(binary.path.name.replace("-server", "-cli"))
        told = self.run([str(client), "-u", self.settings.redis_url, *arguments])
        assert told.returncode == 0, told.stderr
        return told.stdout

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """What a command does and says here."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, cwd=self.logs, timeout=WITHIN_S
        )

    def restart_redis(self, *, away_s: float = 0.0) -> None:
        """SIGKILL to Redis, and so much later another one on the same port and files; returns when it answers."""
        old = self.server.process
        assert old is not None
        old.popen.kill()
        old.popen.wait()
        time.sleep(away_s)
        url, binary = urlparse(self.server.url), redis_server.find_binary()
        assert binary is not None
        given = redis_server._CONFIGURATION.format(port=url.port, password=url.password).encode()
        child = process.start("Redis", [str(binary.path), "-"], log=old.log, env=os.environ, given=given)
        self.server = replace(self.server, process=child)
        child.wait_ready(lambda: redis_server.unanswered(self.server.url) is None, WITHIN_S)

    def kill_engine(self, engine: Engine) -> None:
        """SIGKILL to a simulator; returns when it is gone."""
        self.simulators[engine].popen.kill()
        self.simulators[engine].popen.wait()

    def bring_back(self, engine: Engine) -> None:
        """Start a simulator that was killed anew, at its address; returns when it listens."""
        port = self.settings.urls(engine)[0].rpartition(":")[2]
        self.simulators[engine] = start_simulator(engine, self.settings, self.logs, self.options[engine], port=port)
        self.simulators[engine].wait_ready(lambda: self._listens(engine), WITHIN_S)

    def _listens(self, engine: Engine) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.stats(engine))
        return False

    def behave(self, engine: Engine, **behaviour: Any) -> None:
        """Set the faults of a simulator."""
        self._simulator(engine, "behaviour", behaviour)

    def tell(self, engine: Engine, path: str) -> None:
        """An operator's request to the engine itself, without a body."""
        request = urllib.request.Request(f"{self.settings.urls(engine)[0]}{path}", method="POST")  # noqa: S310
        urllib.request.urlopen(request, timeout=5).close()  # noqa: S310 - a simulator on loopback

    def stats(self, engine: Engine) -> dict[str, Any]:
        """What a simulator has counted."""
        return self._simulator(engine, "stats")

    def in_flight(self, engine: Engine) -> int:
        """Calls that an engine has, by its own count."""
        return int(self.stats(engine)["in_flight"])

    def worker_logs(self) -> str:
        """Everything that the workers have logged."""
        return "".join(worker.log.read_text(errors="replace") for worker in self.workers)

    def _simulator(self, engine: Engine, what: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.settings.urls(engine)[0]}/_sim/{what}", data=data, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310 - a simulator on loopback
            answer: dict[str, Any] = json.load(response)
        return answer


def bare_producer(settings: Settings) -> Celery:
    """An application that knows nothing of this package but names, for the Redis of these settings."""
    address, options = settings.redis_address, brokerage.options(settings)
    made = Celery("producer", broker=address.for_kombu, backend=address.for_kombu)
    made.conf.broker_transport_options = made.conf.result_backend_transport_options = options
    made.conf.redis_backend_use_ssl = brokerage.addresses(settings)["redis_backend_use_ssl"]
    return made


def forget_results(app: Celery) -> None:
    """Close an application; results of it that are collected later no longer look for its Redis, which is gone by then."""
    awaited = app.backend.result_consumer
    awaited.subscribed_to.clear()
    awaited.stop()
    app.close()


def start_simulator(engine: Engine, settings: Settings, logs: Path, options: Sequence[str], *, port: str = "0") -> Process:
    """A simulator with the options of its command line; port 0 is any free one."""
    command = [sys.executable, "-m", "aegis_workers.cli", "simulate", engine.value, "--port", port, *options]
    env = environment.of(settings) | {"PYTHONUNBUFFERED": "1"}
    return process.start(f"simulator-{engine}", command, log=logs / f"simulator-{engine}.log", env=env)


@contextmanager
def installed(
    logs: Path,
    *queues: str,
    vllm: Sequence[str] = (),
    ollama: Sequence[str] = (),
    await_engines: bool = True,
    simulated: Sequence[Engine] = tuple(Engine),
    access: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Installation]:
    """An installation with workers for `queues`, simulators with these options, and `settings` by their field names.

    Engines that are not `simulated` here are others' to start, at addresses in the settings. `access`: the settings of a Redis
    that is there; without it a private one is started.
    """
    with ExitStack() as stack:
        if access is None:
            server = stack.enter_context(redis_server.running(NO_REDIS))
            access = {"redis_url": server.url}
        else:
            server = redis_server.RedisServer(url=access["redis_url"], origin="given")
        base = Settings(_env_file=None, **access)
        options = {Engine.VLLM: vllm, Engine.OLLAMA: ollama}
        simulators = {engine: start_simulator(engine, base, logs, options[engine]) for engine in simulated}
        stack.callback(lambda: process.stop(list(simulators.values()), 5))
        used: dict[str, Any] = {**access, "probe_interval_s": 0.5, "shutdown_grace_s": 2.0}
        for engine, simulator in simulators.items():
            used |= {f"{engine}_url": (children.address(simulator),), f"{engine}_model": "sim"}
        chosen = Settings(_env_file=None, **(used | settings))
        client = stack.enter_context(connection.open_sync(chosen))
        producer = bare_producer(chosen)
        stack.callback(forget_results, producer)
        place = Installation(
            settings=chosen,
            server=server,
            redis=client,
            producer=producer,
            logs=logs,
            simulators=simulators,
            options=options,
        )
        stack.callback(lambda: process.stop([one for one in (place.server.process,) if one is not None], 5))
        stack.callback(lambda: process.stop(place.workers, 10))
        place.start_workers(*queues)
        if queues and await_engines:
            place.await_engines(*(engine for engine in simulated if chosen.model(engine)))
        yield place
