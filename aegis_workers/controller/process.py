"""The controller process: one leads, others stand by. It ends when it is told to, or with status 1 where a part of it dies."""

import asyncio
import os
import platform
import resource
import signal
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import structlog

from aegis_workers.controller import condition, equipment
from aegis_workers.controller.engines import Engines
from aegis_workers.controller.reign import Reign
from aegis_workers.errors import ConfigurationError
from aegis_workers.jobs.overseer import Overseer
from aegis_workers.metrics import counted, exposition
from aegis_workers.metrics import read as reading
from aegis_workers.settings import Settings
from aegis_workers.state import connection
from aegis_workers.state.leader import Leadership
from aegis_workers.worker import health
from aegis_workers.worker.bulletin import Bulletin

log = structlog.get_logger(__name__)


def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status: 0 when it was told to stop, 1 when a part of it died.

    Raises `ConfigurationError` where its health file cannot be written.
    """
    refusal = health.refused(settings.health_dir)
    if refusal is not None:
        raise ConfigurationError(refusal)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two files for each job that is open
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    metrics = exposition.exposed(settings, reading.registry("controller"), counted.OF_CONTROLLER, tuple)
    async with metrics, connection.open_async(settings) as client:
        leadership = Leadership(client, f"{platform.node()}:{os.getpid()}")

        async def serve(token: int) -> None:
            async with equipment.opened(settings) as found:
                await _first(Overseer(client, settings, token).run, Engines(client, settings, token, found).run)

        reign = Reign(leadership, serve)
        try:
            await _first(told.wait, reign.run, *_bulletins(settings, reign))
        except Exception as error:  # whatever it is: a supervisor starts the process anew
            log.critical("controller.died", error=type(error).__name__, exc_info=True)
            return 1
    return 0


def _bulletins(settings: Settings, reign: Reign) -> Iterator[Callable[[], Awaitable[object]]]:
    """What writes the health file, where one is to be written."""
    if settings.health_dir is not None:
        yield Bulletin(settings.health_dir, condition.NODE, partial(condition.take, reign)).run


async def _first(*works: Callable[[], Awaitable[object]]) -> None:
    """Does all of it until one part ends, and ends the others; raises what one died of."""
    parts = [asyncio.ensure_future(work()) for work in works]
    try:
        await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await asyncio.gather(*map(connection.ended, parts))
    for part in parts:
        if not part.cancelled():
            part.result()
