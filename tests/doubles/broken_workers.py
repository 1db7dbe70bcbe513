"""What breaks a worker's consumer from inside: modules for `--include` on the command line of Celery."""

from pathlib import Path

import pytest

# Its loop turns, and it takes no message.
DEAF = """
from aegis_workers.worker import transport
transport.QoS.can_consume = lambda self: False
"""

# Its main thread waits for ever once it is ready, and says so: signals are heard, and nothing follows.
HUNG = """
import threading
from celery import signals

@signals.worker_ready.connect(weak=False)
def hang(sender, **_):
    sender.hub.call_later(0.1, wait)

def wait():
    print("I hang.", flush=True)
    threading.Event().wait()
"""

# A part of its event loop dies, after DELAY_S seconds.
DYING = """
import asyncio
from aegis_workers.worker.prober import Prober

async def run(self):
    await asyncio.sleep(DELAY_S)
    raise RuntimeError

Prober.run = run
"""


def include(module: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The options that make a worker load `module`."""
    folder.mkdir()
    (folder / "what_breaks_it.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return ("--include", "what_breaks_it")
