"""A worker that was taken for dead starts anew, as the same process: what it held is others' by now.

The operating system closes its connections, so that engines stop generating for it, and ends its threads in the middle of
whatever they do. Its process id stays, so that whoever supervises it need not know.
"""

import os
import signal
import sys
import threading
from types import FrameType

import structlog

log = structlog.get_logger(__name__)

# The main thread must do it: on Linux the wish to die with one's parent (see local/guard.py) belongs to that thread.
SIGNAL = signal.SIGUSR2
# A main thread that does not come to it in this time is stuck.
_WITHIN_S = 10.0
_EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h


def prepare() -> None:
    """To be called in the main thread, once."""
    signal.signal(SIGNAL, _start_anew)


def begin() -> None:
    """Start anew. Returns at once, to any thread."""
    log.warning("worker.starts_anew")
    timer = threading.Timer(_WITHIN_S, _give_up)
    timer.daemon = True
    timer.start()
    os.kill(os.getpid(), SIGNAL)


def _start_anew(_signal: int, _frame: FrameType | None) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the command that started this process
    except OSError as error:
        log.critical("worker.ends", reason=f"it was taken for dead, and cannot start anew: {error}")
        os._exit(_EXIT_CODE)


def _give_up() -> None:
    log.critical("worker.ends", reason="it was taken for dead, and its main thread is stuck: start it again")
    os._exit(_EXIT_CODE)
