"""Imported by a worker, it kills the process between a message that Redis gave it and the first note of it here, when told to."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aegis_workers.worker.holdings import Holdings

# The file that tells the worker to end; it is gone when the worker is.
TOLD = Path(os.environ["STORM_FOLDER"]) / "end-in-the-gap"

_take = Holdings.take


def last_act(holdings: Holdings, raw: bytes) -> None:
    """What another module of this folder has the worker do with the message before it ends."""


def _take_or_die(self: Holdings, raw: bytes) -> Mapping[str, Any] | None:
    if TOLD.exists():
        TOLD.unlink()
        last_act(self, raw)
        os.kill(os.getpid(), signal.SIGKILL)
    return _take(self, raw)


Holdings.take = _take_or_die  # type: ignore[method-assign]
