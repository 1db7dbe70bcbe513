"""How this controller process is: what its health file says. Its name there is `controller@<host>`."""

import os
import platform
import time

from aegis_workers.controller.reign import Reign
from aegis_workers.worker.health import Health

NODE = f"controller@{platform.node()}"


def take(reign: Reign) -> Health:
    """Now. One that neither leads nor stands by is not ready."""
    reason = reign.obstacle
    return Health(
        node=NODE,
        at=time.time(),
        live=True,
        ready=reason is None,
        reason=reason,
        stopping=False,
        queue="",
        worker_id="",
        pid=os.getpid(),
    )
