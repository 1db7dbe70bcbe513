"""The controller process: one leads, others stand by. It ends when it is told to, or with status 1 where a part of it dies."""

import asyncio
import os
import platform
import resource
import signal
from collections.abc import Awaitable, Callable

import structlog

from aegis_workers.controller.reign import Reign
from aegis_workers.jobs.overseer import Overseer
from aegis_workers.settings import Settings
from aegis_workers.state import connection
from aegis_workers.state.leader import Leadership

log = structlog.get_logger(__name__)


def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status: 0 when it was told to stop, 1 when a part of it died."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two files for each job that is open
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    async with connection.open_async(settings) as client:
        leadership = Leadership(client, f"{platform.node()}:{os.getpid()}")

        async def serve(token: int) -> None:
            await Overseer(client, settings, token).run()

        try:
            await _until(told, Reign(leadership, serve).run)
        except Exception as error:  # whatever it is: a supervisor starts the process anew
            log.critical("controller.died", error=repr(error), exc_info=True)
            return 1
    return 0


async def _until(told: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
    """Does the work until it is told to stop; raises what the work dies of."""
    working, waiting = asyncio.ensure_future(work()), asyncio.ensure_future(told.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        working.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)
    if not working.cancelled():
        working.result()
