"""One look at the whole system through Redis, in the form of readings."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, TypeVar

import redis.asyncio

from aegis_workers.admin import figures
from aegis_workers.metrics.metric import Metric, Values, one_of
from aegis_workers.metrics.read import Reading
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.state import connection, engine_status, keys, leader, liveness, queues, slots
from aegis_workers.state import mode as modes
from aegis_workers.state.breaker import Stand
from aegis_workers.state.cached import Cached
from aegis_workers.state.engine_control import Phase
from aegis_workers.state.engine_status import EngineStatus
from aegis_workers.state.jobs import Jobs
from aegis_workers.state.mode import ModeReading
from aegis_workers.state.queues import Ages

T = TypeVar("T")

# Of one answer.
_ANSWER_S = 1.0


async def of(settings: Settings, ages: Ages) -> list[Reading]:
    """What Redis says now. Raises `RedisError` and `OSError` where it does not answer."""
    async with connection.open_async(settings, timeout_s=_ANSWER_S) as client:
        memory: Mapping[str, Any] = await client.info("memory")
        return [
            _one(figures.REDIS_USED, float(memory.get("used_memory", 0))),
            _one(figures.REDIS_MAX, float(memory.get("maxmemory", 0))),
            _one(figures.CONTROLLER, float(await leader.is_there(client))),
            _one(figures.ASIDE, float(await client.hlen(keys.ASIDE))),
            *_mode(await _known(modes.cache(client, settings.llm_engine_mode))),
            *await _engines(client, settings),
            *await _queues(client, ages),
            *await _jobs(client),
        ]


def _one(metric: Metric, value: float) -> Reading:
    return Reading(metric=metric, values={(): value})


async def _known(cached: Cached[T]) -> T:
    """What Redis says now; an older memory is none here."""
    reading = await cached.read()
    if reading.stale:
        raise ConnectionError("Redis did not answer")
    return reading.value


def _mode(reading: ModeReading) -> Iterator[Reading]:
    yield Reading(metric=figures.MODE, values=one_of(reading.mode, tuple(Mode)))
    yield _one(figures.MODE_PROBLEM, float(reading.problem is not None))


async def _engines(client: redis.asyncio.Redis, settings: Settings) -> list[Reading]:
    found = [
        await _engine(client, settings, engine, status) for engine, status in (await _known(engine_status.cache(client))).items()
    ]
    return [
        Reading(metric=metric, values=dict(chain.from_iterable(values[metric.name].items() for values in found)))
        for metric in figures.OF_ENGINES
    ]


async def _engine(client: redis.asyncio.Redis, settings: Settings, engine: Engine, status: EngineStatus) -> Mapping[str, Values]:
    """The values of one engine, by the names of the metrics; one that is not configured is in the first of them only."""
    name = engine.value
    urls = {replica.url for replica in status.replicas}
    if settings.model(engine) is not None:
        urls |= set(settings.urls(engine))
    state = status.state.value if urls else figures.NOT_CONFIGURED
    phase = status.control.phase if status.control is not None and urls else None
    stands = Counter(replica.breaker.stands(time.time() * 1000) for replica in status.replicas)
    probed: Values = {} if status.probed_at is None or not urls else {(name,): max(0.0, time.time() - status.probed_at)}
    values: dict[str, Values] = {
        figures.ENGINE_STATE.name: _of(name, one_of(state, figures.STATES)),
        figures.ENGINE_PHASE.name: _of(name, one_of(phase, tuple(Phase))),
        figures.FENCED.name: {(name,): float(status.fenced)},
        figures.PROBE_AGE.name: probed,
        figures.IN_FLIGHT.name: {(name,): float(await slots.count(client, urls))},
        figures.LIMIT.name: {(name,): float(settings.limit(engine) * len(urls))},
        figures.BREAKERS.name: {(name, stand.value): float(stands[stand]) for stand in Stand},
    }
    return values


def _of(engine: str, values: Values) -> Values:
    return {(engine, *words): value for words, value in values.items()}


async def _queues(client: redis.asyncio.Redis, ages: Ages) -> list[Reading]:
    found, living = await queues.look(client), await liveness.count(client)
    return [
        Reading(metric=figures.QUEUED, values={(queued.name,): float(queued.length) for queued in found}),
        Reading(metric=figures.OLDEST, values={(queued.name,): ages.oldest_s(queued) for queued in found}),
        Reading(metric=figures.WORKERS, values={(queue,): float(living.get(queue, 0)) for queue in queues.NAMES}),
    ]


async def _jobs(client: redis.asyncio.Redis) -> list[Reading]:
    jobs = Jobs(client)
    states = (await jobs.read_many(await jobs.open_ids())).values()
    return [
        _one(figures.CHUNKS_OUT, float(sum(state.out_chunks for state in states))),
        _one(figures.UNCOLLECTED, float(sum(state.recorded - state.collected for state in states))),
    ]
