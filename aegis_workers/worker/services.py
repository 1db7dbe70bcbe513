"""What a worker process has on its event loop, opened and closed in one place."""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from aegis_workers.dispatch.admission import Admission
from aegis_workers.dispatch.calls import Calls
from aegis_workers.dispatch.chunks import Chunks
from aegis_workers.dispatch.documents import Documents
from aegis_workers.dispatch.fleet import Fleet, Limits
from aegis_workers.dispatch.running import Tasks
from aegis_workers.engines import clients as engine_clients
from aegis_workers.engines.base import EngineClient, Readiness
from aegis_workers.errors import EngineLost
from aegis_workers.metrics import counted, exposition
from aegis_workers.metrics import read as reading
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import connection, engine_status, keys, liveness, mode, slots, workers
from aegis_workers.state.answers import Answers
from aegis_workers.state.cached import Cached
from aegis_workers.state.engine_status import ReplicaStatus, Statuses
from aegis_workers.state.mode import ModeReading
from aegis_workers.state.push import Push
from aegis_workers.state.recording import Recorder
from aegis_workers.state.slots import Slots
from aegis_workers.state.suspects import Suspects
from aegis_workers.worker import condition, ending, gauges, greeting, holdings, identity, pulse, rebirth
from aegis_workers.worker.bulletin import Bulletin
from aegis_workers.worker.coroner import Coroner
from aegis_workers.worker.prober import Prober
from aegis_workers.worker.reaper import Duties, Reaper
from aegis_workers.worker.watchdog import Watchdog

log = structlog.get_logger(__name__)

# A breaker's trial is believed for a call's longest time and this much.
_TRIAL_MARGIN_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Services:
    """The parts that tasks use."""

    settings: Settings
    redis: redis.asyncio.Redis
    tasks: Tasks
    admission: Admission
    calls: Calls
    documents: Documents
    chunks: Chunks
    answers: Answers


@asynccontextmanager
async def opened(settings: Settings, queue: str) -> AsyncIterator[Services]:
    """The services of this process, with their background work running until the block ends."""
    async with AsyncExitStack() as stack:
        client = connection.open_async(settings)
        stack.push_async_callback(client.aclose)
        at_boundary = connection.open_quick(settings)
        stack.push_async_callback(at_boundary.aclose)
        clients = engine_clients.build(settings)
        for replica in (replica for replicas in clients.values() for replica in replicas):
            stack.push_async_callback(replica.aclose)
        held = holdings.current()
        mode_memory, statuses = mode.cache(client, settings.llm_engine_mode), engine_status.cache(client)
        admission = Admission(
            Fleet(clients=clients, limits=_limits(settings), policy=settings.fallback),
            mode_memory,
            statuses,
            Slots(at_boundary, identity.worker_id(), trial_s=settings.call_timeout_s + _TRIAL_MARGIN_S),
            longest_wait_s=settings.requeue_after_s,
            is_alive=_always if held is None else held.seems_alive,
        )
        answers = Answers(client, identity.worker_id())
        recorder = Recorder(client, "" if held is None else identity.worker_id())
        reporter = _LossReporter(client, statuses)
        calls = Calls(
            admission, Suspects(client, identity.worker_id()), timeout_s=settings.call_timeout_s, report_lost=reporter.report
        )
        tasks = Tasks(client) if held is None else Tasks(client, held.coming.over)
        changes = _Changes(mode_memory, statuses, admission, tasks)
        push = Push(client, (keys.MODE, keys.ENGINE_PREFIX, keys.FREED_PREFIX, keys.CANCELLED_PREFIX), changes.note)
        background = {
            "push": push.run(),
            "revoked tasks": tasks.run(),
            "admission": admission.run(),
            "answers": answers.run(),
            "recorder": recorder.run(),
            "greeting": greeting.greet(client, settings),
            "prober": Prober(client, clients, settings, mode_memory, statuses).run(),
            "heartbeat": _Heartbeat(client, admission, calls, mode_memory, queue).run(),
            **_guards(client, admission, settings),
        }
        if held is not None:
            watching = connection.open_async(settings, raw=True, timeout_s=liveness.MAX_GAP_S)
            stack.push_async_callback(watching.aclose)
            background["reaper"] = Reaper(watching, held, _duties(client, settings)).run()
        await stack.enter_async_context(_metrics(settings, queue, admission, mode_memory))
        for name, work in background.items():
            stack.push_async_callback(connection.ended, asyncio.create_task(_watched(name, work, settings), name=name))
        documents = Documents(calls, settings, answers)
        yield Services(
            settings=settings,
            redis=client,
            tasks=tasks,
            admission=admission,
            calls=calls,
            documents=documents,
            chunks=Chunks(calls, recorder, answers),
            answers=answers,
        )


def _always() -> bool:
    """A process that takes no messages is declared dead by nobody."""
    return True


def _duties(client: redis.asyncio.Redis, settings: Settings) -> Duties:
    """What a reaper does beside putting messages back, for the replicas that this worker knows; others know the others."""
    urls = [url for engine in Engine for url in settings.urls(engine)]

    async def free_slots(worker_id: str) -> None:
        if freed := await slots.forget(client, worker_id, urls):
            log.warning("slots.freed", count=freed, worker=worker_id, reason="their worker died")

    async def end_leases() -> None:
        await slots.expire(client, urls)

    verdict = Coroner(client).verdict
    return Duties(declared_dead=rebirth.begin, verdict=verdict, on_death=free_slots, while_watching=end_leases)


def _limits(settings: Settings) -> dict[Engine, Limits]:
    return {engine: Limits(limit=settings.limit(engine), kept=settings.kept(engine)) for engine in Engine}


def _guards(client: redis.asyncio.Redis, admission: Admission, settings: Settings) -> Mapping[str, Coroutine[Any, Any, None]]:
    """What watches over Celery's side of this process; nothing where it consumes nothing."""
    celery = pulse.current()
    if celery is None:
        return {}
    watchdog = Watchdog(client, celery, limit_s=settings.watchdog_s, grace_s=settings.shutdown_grace_s)
    if settings.health_dir is None:
        return {"watchdog": watchdog.run()}
    found = partial(condition.take, celery, watchdog, admission, limit_s=settings.watchdog_s)
    bulletin = Bulletin(settings.health_dir, celery.node, found)
    return {"watchdog": watchdog.run(), "health": bulletin.run()}


def _metrics(
    settings: Settings, queue: str, admission: Admission, mode: Cached[ModeReading]
) -> AbstractAsyncContextManager[None]:
    """What shows the metrics of this process; nothing where it consumes nothing."""
    if pulse.current() is None:
        return nullcontext()
    registry = reading.registry("worker", queue)
    return exposition.exposed(settings, registry, counted.OF_WORKER, partial(gauges.read, admission, mode))


async def _watched(name: str, work: Coroutine[Any, Any, None], settings: Settings) -> None:
    """Stops the worker when a part of it dies: its supervisor starts a new one. Else it would look alive and do nothing."""
    try:
        await work
    except Exception:
        log.critical("worker.part_died", part=name, exc_info=True)
        ending.end(within_s=settings.shutdown_grace_s + ending.MARGIN_S)


@dataclass(frozen=True)
class _Changes:
    """Routes what Redis says has changed to the memory that holds it."""

    mode: Cached[ModeReading]
    statuses: Cached[Statuses]
    admission: Admission
    tasks: Tasks

    def note(self, key: str | None) -> None:
        if key is not None and key.startswith(keys.CANCELLED_PREFIX):
            self.tasks.changed(key.removeprefix(keys.CANCELLED_PREFIX))
            return
        if key is None:
            self.tasks.changed(None)
        if key in {keys.MODE, None}:
            self.mode.drop()
        if key is None or key.startswith(keys.ENGINE_PREFIX):
            self.statuses.drop()
        self.admission.nudge()


@dataclass(frozen=True)
class _LossReporter:
    """Tells all workers of a replica that serves nobody, before the prober finds out. It is ready again once it has proved so."""

    client: redis.asyncio.Redis
    statuses: Cached[Statuses]

    async def report(self, replica: EngineClient, error: EngineLost) -> None:
        if not error.down:
            return
        status = ReplicaStatus(url=replica.url, state=Readiness.UNAVAILABLE, reason=str(error))
        try:
            await engine_status.report(self.client, replica.engine, [status], complete=False)
        except (RedisError, OSError):
            log.warning("engine.loss_not_shared", engine=replica.engine.value, url=replica.url)
        self.statuses.drop()


class _Heartbeat:
    """Says at each interval that the worker lives, and what its calls do and wait for."""

    def __init__(
        self, client: redis.asyncio.Redis, admission: Admission, calls: Calls, mode: Cached[ModeReading], queue: str
    ) -> None:
        self._client = client
        self._admission = admission
        self._calls = calls
        self._mode = mode
        self._queue = queue
        self._worker_id = identity.worker_id()

    async def run(self) -> None:
        try:
            while True:
                await self._beat()
                await asyncio.sleep(workers.REFRESH_S)
        finally:
            await asyncio.shield(self._withdraw())

    async def _beat(self) -> None:
        report = workers.WorkerReport(
            worker_id=self._worker_id,
            queue=self._queue,
            pid=os.getpid(),
            in_flight=self._admission.in_flight,
            waiting=self._admission.waiting,
            tokens_per_s=self._calls.throughput.tokens_per_s,
            mode=self._mode.last.value.mode.value,
        )
        try:
            await workers.publish(self._client, report)
        except (RedisError, OSError) as error:
            log.debug("heartbeat.skipped", error=repr(error))

    async def _withdraw(self) -> None:
        try:
            await workers.withdraw(self._client, self._worker_id)
        except (RedisError, OSError):
            log.debug("heartbeat.left", reason="Redis does not answer; the entry will expire")
