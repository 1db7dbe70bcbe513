"""Keeps the controller's health file up to date for as long as its event loop runs."""

import asyncio
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

import structlog

from aegis_workers.controller.reign import Reign
from aegis_workers.worker import health
from aegis_workers.worker.health import Health

log = structlog.get_logger(__name__)


class Bulletin:
    """Writes once a second, also while Redis is away; removed at the end. The controller's name is `controller@<host>`."""

    def __init__(self, folder: Path, reign: Reign) -> None:
        self._folder = folder
        self._reign = reign
        self._node = f"controller@{platform.node()}"
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

    def _health(self) -> Health:
        reason = self._reign.obstacle
        return Health(
            node=self._node,
            at=time.time(),
            live=True,
            ready=reason is None,
            reason=reason,
            stopping=False,
            queue="",
            worker_id="",
            pid=os.getpid(),
        )
