"""How this process ends itself: as SIGTERM would, with a status that its supervisor takes for a failure, and without fail."""

import os
import signal
import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

FAILURE = 1
# What an orderly stop needs once its calls have ended.
MARGIN_S = 5.0
# What is waited for it at most, on a machine that is far too busy.
LIMIT_S = 30.0

# How often a process that stops asks whether Redis is still there.
_LOOK_S = 1.0

_begun = threading.Event()


def end(*, within_s: float) -> None:
    """Stop this worker as SIGTERM does. If it has not ended `within_s` seconds later, it is ended without more ado.

    Returns at once; why it ends is the caller's to say. A second call changes nothing.
    """
    if _begun.is_set():
        return
    _begun.set()
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # Celery has not begun; and such a death is no failure to a supervisor
        os._exit(FAILURE)
    timer = threading.Timer(within_s, _end_now, (within_s,))
    timer.daemon = True
    timer.start()
    os.kill(os.getpid(), signal.SIGTERM)


def has_begun() -> bool:
    """Whether this process has decided to end itself."""
    return _begun.is_set()


def status(regular: int | None) -> int | None:
    """The exit status to end with: a failure if this process has ended itself, else the `regular` one."""
    return FAILURE if _begun.is_set() else regular


def await_end(is_silent: Callable[[], bool], last_words: Callable[[], None]) -> None:
    """Waits with a process that stops and has nothing left to do but to say so to Redis. Never returns.

    Celery waits half a minute for each of several answers, so that a frozen Redis would hold it for minutes. It is ended once
    Redis is silent, after `last_words`: what it holds stays where others look for it. So is one that takes `LIMIT_S` seconds.
    """
    latest = time.monotonic() + LIMIT_S
    while not is_silent():
        if time.monotonic() > latest:
            last_words()
            _end_now(LIMIT_S)
        time.sleep(_LOOK_S)
    log.warning("messages.left", reason="Redis is silent; other workers put them back, once they find this one gone")
    last_words()
    os._exit(status(0) or 0)


def _end_now(within_s: float) -> None:
    """A main thread that hangs hears no signal: all that is left is to go without it."""
    log.critical("worker.abandoned", reason=f"it did not stop within {within_s:g} s")
    os._exit(FAILURE)
