"""What people see of a running system on their terminal, and how they end it."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from rich.console import Console

from aegis_workers.forms import without_password
from aegis_workers.local.system import System
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings


def console(*, stderr: bool = False) -> Console:
    """A console that writes text as it is: no markup, no highlighting, and no failure on a terminal of few characters."""
    stream = sys.stderr if stderr else sys.stdout
    stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a test may have put something simpler there
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def announce(system: System, out: Console) -> None:
    """Says which Redis and which engines are used; of simulators, that they are no language models."""
    say(out, f"Redis: {system.redis.origin}")
    for engine in Engine:
        say(out, f"{engine.label}: {_engine(engine, system)}")
    if system.simulated:
        say(out, "Simulators are NOT a language model: what they extract comes from simple rules.")


def say(out: Console, line: str) -> None:
    """One line, however long: addresses must stay in one piece."""
    out.print(line, soft_wrap=True)


@dataclass
class Told:
    """Whether this process was told to stop. No event of `threading`: a signal's handler must not wait for a lock."""

    to_stop: bool = False


@contextmanager
def interruptible() -> Iterator[Told]:
    """Ctrl-C, SIGTERM and the end of the terminal raise `KeyboardInterrupt`. For the main thread.

    What is yielded says it too, for whoever runs on: Python drops an exception that comes while it finalises an object.
    """
    told = Told()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        told.to_stop = True
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # so it is under nohup
            signal.signal(number, interrupt)
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _engine(engine: Engine, system: System) -> str:
    settings: Settings = system.settings
    urls = ", ".join(without_password(url) for url in settings.urls(engine))
    if engine in system.simulated:
        return f"simulator at {urls}"
    model = settings.model(engine)
    return f"{model} at {urls}" if model else f"not configured (set AEGIS_{engine.upper()}_MODEL)"
