"""Keeps this worker's health file up to date for as long as its event loop runs."""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

import structlog

from aegis_workers.dispatch.admission import Admission
from aegis_workers.worker import health, identity, pulse
from aegis_workers.worker.health import Health
from aegis_workers.worker.pulse import Pulse
from aegis_workers.worker.watchdog import Watchdog

log = structlog.get_logger(__name__)


class Bulletin:
    """Writes once a second, also while Redis is away and while Celery's main loop stands still; removed at the end."""

    def __init__(self, folder: Path, pulse: Pulse, watchdog: Watchdog, admission: Admission, *, limit_s: float) -> None:
        self._folder = folder
        self._pulse = pulse
        self._watchdog = watchdog
        self._admission = admission
        self._limit_s = limit_s
        self._failed = False

    async def run(self) -> None:
        """Writes until cancelled."""
        try:
            while True:
                self._publish()
                await asyncio.sleep(health.WRITE_EVERY_S)
        finally:
            withdraw(self._folder)

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
        signs = self._pulse.signs(queued=self._watchdog.queued, answering_since=self._watchdog.answering_since)
        verdict = health.judge(signs, limit_s=self._limit_s)
        return Health(
            node=self._pulse.node,
            at=time.time(),
            live=verdict.live,
            ready=verdict.ready,
            reason=verdict.reason,
            stopping=signs.stopping,
            queue=",".join(sorted(signs.queues)),
            worker_id=identity.worker_id(),
            pid=os.getpid(),
            in_flight=self._admission.in_flight,
            waiting=self._admission.waiting,
        )


def withdraw(folder: Path | None) -> None:
    """Remove this worker's health file, if it keeps one."""
    celery = pulse.current()
    if folder is not None and celery is not None:
        with suppress(OSError):
            health.remove(folder, celery.node)
