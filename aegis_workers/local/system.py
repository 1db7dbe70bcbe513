"""The whole system on this machine: Redis, simulators, workers and what goes with them, in order, and out again in reverse."""

import secrets
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from redis.exceptions import RedisError

from aegis_workers.errors import ConfigurationError
from aegis_workers.local import children, process, redis_server
from aegis_workers.local.process import Process, ProcessFailed
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import connection, keys, leader, scripts, server, workers

SIMULATED_MODEL = "sim"
# What a child needs to end once its calls have ended.
STOP_GRACE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Flower:
    """Where Flower answers, and who may look (`user:password`)."""

    url: str
    auth: str


@dataclass(frozen=True, kw_only=True)
class System:
    """Everything that runs. `settings` are those of the children: with the Redis in use, and the simulators as engines."""

    settings: Settings
    logs: Path
    redis: redis_server.RedisServer
    simulated: Collection[Engine]
    processes: Sequence[Process]
    flower: Flower | None
    admin_url: str | None

    def check(self) -> None:
        """Raises `ProcessFailed` if any child has ended."""
        for child in self.processes:
            child.check()


@contextmanager
def running(settings: Settings, *, simulated: Collection[Engine] = (), in_full: bool = False) -> Iterator[System]:
    """The system, ready for tasks; it ends with the block.

    `simulated` are the engines that simulators stand in for. `in_full`: with Flower and admin API, beside whatever else uses its
    Redis; else it has its Redis to itself, as it has with simulators. Raises `ProcessFailed` where a child does not start,
    `ConfigurationError` where there is no Redis that can be used, and `RedisUnavailable` where it goes away, in the block too.
    """
    is_alone = bool(simulated) or not in_full
    with ExitStack() as stack:
        logs = stack.enter_context(_log_folder())
        found = stack.enter_context(
            redis_server.running(
                settings.redis_url,
                why_not=lambda _: connection.unanswered(settings, within_s=redis_server.PING_TIMEOUT_S),
                objection=lambda: _objection(settings) if is_alone else None,
            )
        )
        used = settings if found.process is None else settings.model_copy(update={"redis_url": found.url, "redis_ca": None})
        stack.enter_context(connection.explained(used))
        _refuse_unfit(used)
        if is_alone:
            stack.enter_context(_mode_key_as_found(used))
        simulators = stack.enter_context(_group(STOP_GRACE_S))
        used = used.model_copy(update=_simulate(simulated, used, logs, simulators))
        staff = stack.enter_context(_group(settings.shutdown_grace_s + STOP_GRACE_S))
        _work(used, logs, staff)
        others = stack.enter_context(_group(settings.shutdown_grace_s + STOP_GRACE_S))
        watcher, admin_url = _complete(used, logs, others) if in_full else (None, None)
        processes = [*([found.process] if found.process else []), *simulators, *staff, *others]
        yield System(
            settings=used,
            logs=logs,
            redis=found,
            simulated=simulated,
            processes=processes,
            flower=watcher,
            admin_url=admin_url,
        )


@contextmanager
def _log_folder() -> Iterator[Path]:
    """A folder for the children's logs; kept where one of them failed, else removed."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-logs-"))
    try:
        yield folder
    except ProcessFailed as failure:
        raise ProcessFailed(f"{failure}\nAll logs: {folder}") from None
    except BaseException:
        shutil.rmtree(folder)
        raise
    else:
        shutil.rmtree(folder)


@contextmanager
def _group(grace_s: float) -> Iterator[list[Process]]:
    """Processes that are stopped together: those that the list holds by then."""
    group: list[Process] = []
    try:
        yield group
    finally:
        process.stop(group, grace_s)


def _simulate(engines: Collection[Engine], settings: Settings, logs: Path, group: list[Process]) -> Mapping[str, Any]:
    """Starts a simulator for each of `engines`. Returns the settings that have workers use them, and nobody start another."""
    group.extend(children.start_simulator(engine, settings, logs) for engine in engines)
    changes: dict[str, Any] = {}
    for engine, child in zip(engines, group, strict=True):
        changes |= {
            f"{engine}_url": (children.address(child),),
            f"{engine}_model": SIMULATED_MODEL,
            f"{engine}_driver": "external",
        }
    return changes


def _work(settings: Settings, logs: Path, group: list[Process]) -> None:
    """Starts the workers and the controller. Returns when they are ready."""
    group.extend(children.start_worker(queue, settings, logs) for queue in children.WORKERS)
    group.append(children.start_controller(settings, logs))
    *staff, controller = group
    children.await_workers(staff, settings)
    children.await_controller(controller)


def _complete(settings: Settings, logs: Path, group: list[Process]) -> tuple[Flower, str]:
    """Starts Flower and admin API. Returns where they answer."""
    return _watch(settings, logs, group), _administer(settings, logs, group)


def _watch(settings: Settings, logs: Path, group: list[Process]) -> Flower:
    """Starts Flower: on its usual port, or on a free one where that is taken; with a random password if none is set."""
    # It brings all that a worker is made of, which takes half a second to load.
    from aegis_workers.worker import flower  # noqa: PLC0415

    login = flower.login(settings) or f"{flower.USER}:{secrets.token_urlsafe(12)}"
    settings = settings.model_copy(update={"flower_auth": SecretStr(login)})
    url = _on_a_free_port(group, partial(children.start_flower, settings=settings, logs=logs), children.FLOWER_PORT)
    return Flower(url=url, auth=login)


def _administer(settings: Settings, logs: Path, group: list[Process]) -> str:
    """Starts the admin API; its base URL."""
    return _on_a_free_port(group, partial(children.start_admin, settings=settings, logs=logs), children.ADMIN_PORT)


def _on_a_free_port(group: list[Process], start: Callable[[int], Process], usual: int) -> str:
    """The base URL of a child on its usual port, or on a free one where that is taken."""
    for port in (usual, 0):
        group.append(start(port))
        try:
            return children.address(group[-1])
        except ProcessFailed as failure:
            if port == 0 or process.PORT_TAKEN not in str(failure):
                raise
            group.pop()
    raise AssertionError("unreachable: the last attempt returns or raises")


@contextmanager
def _mode_key_as_found(settings: Settings) -> Iterator[None]:
    """Takes back the default mode that the first start on a Redis writes.

    After such a run it would override what `LLM_ENGINE_MODE` says at the first real one. Another mode is the operator's.
    """
    with connection.open_sync(settings) as client:
        found = client.exists(keys.MODE)
        try:
            yield
        finally:
            if not found:
                with suppress(RedisError):
                    client.eval(scripts.DROP_LEASE, 1, keys.MODE, settings.llm_engine_mode.value)


def _refuse_unfit(settings: Settings) -> None:
    """Its workers would end as soon as they start."""
    with connection.open_sync(settings) as client:
        reason = server.refusal(server.read(client), settings)
    if reason is not None:
        raise ConfigurationError(reason)


def _objection(settings: Settings) -> str | None:
    """Why a system that must be alone on its Redis must not use this one, in words: it would answer the tasks of others.

    And a controller that leads there already would have it stand by, and nobody look after its jobs.
    """
    try:
        with connection.open_sync(settings) as client:
            if reason := server.unfit(server.read(client)):
                return reason
            if workers.read_all(client):
                return "other workers use it, whose tasks must be left to them"
            if any(client.llen(queue) for queue in children.WORKERS):
                return "tasks wait there, which are for other workers"
            if leader.read(client) is not None:
                return "another controller leads there, which looks after other jobs"
    except RedisError as error:
        return str(error) or repr(error)
    return None
