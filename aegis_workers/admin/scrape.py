"""`/metrics`: the system as a whole, and this process, in the form that Prometheus reads."""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import APIRouter, Response
from prometheus_client import generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from aegis_workers.admin import failures, figures, survey
from aegis_workers.errors import SpoolUnavailable
from aegis_workers.jobs.journal import State
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.states import States
from aegis_workers.metrics import read as reading
from aegis_workers.metrics.metric import Metric, Values
from aegis_workers.metrics.read import Reading
from aegis_workers.settings import Settings
from aegis_workers.state.queues import Ages

log = structlog.get_logger(__name__)

# For Redis, and for the disk: together less than the 10 s that Prometheus waits where it is not told otherwise.
_LOOK_S = 4.0


_TYPE = "text/plain; version=0.0.4"
_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {_TYPE: {"schema": {"type": "string"}}}, "description": "Metrics."}}


def router(settings: Settings) -> APIRouter:
    """The route for these settings."""
    routes = APIRouter(tags=["metrics"], responses={**_TEXT, **{status: failures.RESPONSES[status] for status in (401, 403)}})
    scrape = Scrape(settings)

    @routes.get("/metrics", summary="Show the metrics of the system", response_class=Response)
    async def metrics() -> Response:
        """For Prometheus. With Redis or the data folder away, `aegis_redis_up` or `aegis_data_folder_up` is 0."""
        return Response(await scrape.text(), media_type=_TYPE)

    return routes


class Scrape:
    """Answers scrapes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process = reading.registry("admin")
        self._ages = Ages()
        self._states = States(Spool(settings.data_dir))

    async def text(self) -> str:
        """What is shown now. Whatever is away, there is an answer within twice `_LOOK_S`."""
        found = [*await self._redis(), *await self._jobs()]
        return (generate_latest(self._process) + generate_latest(_Found(found))).decode()

    async def _redis(self) -> Sequence[Reading]:
        try:
            async with asyncio.timeout(_LOOK_S):
                found = await survey.of(self._settings, self._ages)
        except (RedisError, OSError) as error:  # a time limit is one of the latter
            log.debug("metrics.without_redis", error=repr(error))
            return [_up(figures.REDIS_UP, up=False)]
        return [_up(figures.REDIS_UP, up=True), *found]

    async def _jobs(self) -> Sequence[Reading]:
        try:
            async with asyncio.timeout(_LOOK_S):
                counts = await run_in_threadpool(self._states.count)
        except (SpoolUnavailable, OSError) as error:
            log.debug("metrics.without_jobs", error=repr(error))
            return [_up(figures.FOLDER_UP, up=False)]
        values: Values = {(state.value,): float(counts.get(state, 0)) for state in State}
        return [_up(figures.FOLDER_UP, up=True), Reading(metric=figures.JOBS, values=values)]


class _Found(Collector):
    def __init__(self, found: Sequence[Reading]) -> None:
        self._found = found

    def collect(self) -> list[Family]:
        return [reading.family(each) for each in self._found]


def _up(metric: Metric, *, up: bool) -> Reading:
    return Reading(metric=metric, values={(): float(up)})
