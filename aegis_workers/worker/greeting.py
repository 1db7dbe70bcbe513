"""The first contact with Redis: may it be trusted with messages, and is there a mode?"""

import asyncio
from collections.abc import Sequence

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from aegis_workers.settings import Settings
from aegis_workers.state import connection, mode, server
from aegis_workers.state.server import Finding, Level
from aegis_workers.worker import ending
from aegis_workers.worker.repetition import Repetition

log = structlog.get_logger(__name__)


def refused(settings: Settings) -> str | None:
    """Why the Redis of `settings` cannot be used, in words; None where it can, and where it does not answer yet.

    One that does not let us in is not waited for: somebody must correct a setting.
    """
    try:
        with connection.open_sync(settings) as client:
            return server.refusal(server.read(client), settings)
    except (RedisError, OSError) as error:
        return connection.refused(settings, error)


async def greet(client: redis.asyncio.Redis, settings: Settings) -> None:
    """Returns once Redis has answered and the mode is written where there was none; ends the worker if Redis is unfit."""
    unavailable = Repetition()
    while True:
        try:
            await _meet(client, settings)
        except (RedisError, OSError) as error:
            if unavailable.is_due():
                log.warning("redis.unavailable", error=str(connection.failure(settings, error)))
            await asyncio.sleep(connection.RETRY_S)
        else:
            return


async def _meet(client: redis.asyncio.Redis, settings: Settings) -> None:
    found = await server.read_async(client)
    refusal = server.refusal(found, settings)
    if refusal is not None:
        log.critical("redis.refused", reason=refusal)
        ending.end(within_s=settings.shutdown_grace_s + ending.MARGIN_S)
        return
    _warn(found)
    if await mode.write_default(client, settings.llm_engine_mode):
        log.info("mode.defaulted", mode=settings.llm_engine_mode.value)


def _warn(found: Sequence[Finding]) -> None:
    for finding in found:
        if finding.level is Level.WARNING:
            log.warning("redis.doubted", reason=f"{finding.what} {finding.detail}")
