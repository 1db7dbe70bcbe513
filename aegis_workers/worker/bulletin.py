"""Keeps this process's health file up to date for as long as its event loop runs."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from aegis_workers.worker import health
from aegis_workers.worker.health import Health

log = structlog.get_logger(__name__)


class Bulletin:
    """Writes what `health` finds, once a second, also while Redis is away; the file of `node` is removed at the end."""

    def __init__(self, folder: Path, node: str, health: Callable[[], Health]) -> None:
        self._folder = folder
        self._node = node
        self._health = health
        self._failed = False

    async def run(self) -> None:
        """Writes until cancelled."""
        try:
            while True:
                self._publish()
                await asyncio.sleep(health.WRITE_EVERY_S)
        finally:
            with suppress(OSError):
                health.remove(self._folder, self._node)

    def _publish(self) -> None:
        try:
            health.write(self._folder, self._health())
        except OSError as error:
            if not self._failed:
                log.warning("health.unwritten", folder=str(self._folder), error=repr(error))
            self._failed = True
        else:
            self._failed = False
