"""How this worker process is: what its health file says."""

import os
import time
from contextlib import suppress
from pathlib import Path

from aegis_workers.dispatch.admission import Admission
from aegis_workers.worker import health, identity, pulse
from aegis_workers.worker.health import Health
from aegis_workers.worker.pulse import Pulse
from aegis_workers.worker.watchdog import Watchdog


def take(celery: Pulse, watchdog: Watchdog, admission: Admission, *, limit_s: float) -> Health:
    """Now, also while Celery's main loop stands still; for `limit_s` of that it counts as alive."""
    signs = celery.signs(queued=watchdog.queued, answering_since=watchdog.answering_since)
    verdict = health.judge(signs, limit_s=limit_s)
    return Health(
        node=celery.node,
        at=time.time(),
        live=verdict.live,
        ready=verdict.ready,
        reason=verdict.reason,
        stopping=signs.stopping,
        queue=",".join(sorted(signs.queues)),
        worker_id=identity.worker_id(),
        pid=os.getpid(),
        in_flight=admission.in_flight,
        waiting=admission.waiting,
    )


def withdraw(folder: Path | None) -> None:
    """Remove this worker's health file, if it keeps one."""
    celery = pulse.current()
    if folder is not None and celery is not None:
        with suppress(OSError):
            health.remove(folder, celery.node)
