"""Imported by a worker, it kills the process between a message that Redis gave it and the first note of it here, once."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aegis_workers.worker.holdings import Holdings

# The worker that did so is the last: its successor finds this.
DONE = Path("killed-in-the-gap")
TAKEN_BEFORE = 60

_take, _taken = Holdings.take, 0


def _take_or_die(self: Holdings, raw: bytes) -> Mapping[str, Any] | None:
    global _taken  # noqa: PLW0603 - a module that is imported for what it does
    _taken += 1
    if _taken > TAKEN_BEFORE and not DONE.exists():
        DONE.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return _take(self, raw)


Holdings.take = _take_or_die  # type: ignore[method-assign]
