"""What the server does beside its requests, from its start to its end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import anyio.to_thread
import structlog
from fastapi import FastAPI
from redis.exceptions import RedisError

from aegis_workers.admin.place import Place
from aegis_workers.settings import Settings
from aegis_workers.state import connection
from aegis_workers.state import mode as modes

log = structlog.get_logger(__name__)

# Requests that are worked on at once, each in a thread that may wait for the disk or for Redis; others stand in line.
THREADS: Final = 32


def lifespan(place: Place) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Sees to it that a mode is written, while the server answers already: Redis may come later than the server."""

    @asynccontextmanager
    async def lives(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        writing = asyncio.create_task(_write_default(place.settings), name="default mode")
        try:
            yield
        finally:
            place.feed.close()
            await connection.ended(writing)
            place.reach.close()

    return lives


async def _write_default(settings: Settings) -> None:
    """The configured mode becomes the mode where there is none: a restart never undoes an operator's switch."""
    said = False
    async with connection.open_async(settings) as client:
        while True:
            try:
                written = await modes.write_default(client, settings.llm_engine_mode)
            except (RedisError, OSError) as error:
                if not said:
                    log.warning("redis.unavailable", error=str(connection.failure(settings, error)))
                said = True
                await asyncio.sleep(connection.RETRY_S)
            else:
                if written:
                    log.info("mode.defaulted", mode=settings.llm_engine_mode.value)
                return
