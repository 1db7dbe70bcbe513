"""One child process: started with its log in a file, waited for until it is ready, and never left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aegis_workers.errors import AegisError
from aegis_workers.local import guard

POLL_INTERVAL_S = 0.05
TAIL_LINES = 15
# What Redis and Python say alike when another process took a port first.
PORT_TAKEN = "Address already in use"
_TAIL_BYTES = 16_384


class ProcessFailed(AegisError):
    """A child process ended on its own, or was not ready in time; the message has the last lines of its log."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """A running child. It leads its own process group, so that Ctrl-C reaches us alone and we end it in order."""

    name: str
    log: Path
    popen: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Process id, and the id of its process group."""
        return self.popen.pid

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.popen.poll() is None

    def check(self) -> None:
        """Raises `ProcessFailed` if it has ended."""
        code = self.popen.poll()
        if code is not None:
            raise ProcessFailed(f"{self.name} ended by itself ({_ending(code)}). {self._tail()}")

    def wait_ready(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Returns when `is_ready()` is true. Raises `ProcessFailed` if the child ends before, or is not ready in time."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise ProcessFailed(f"{self.name} was not ready within {timeout_s:.0f} s. {self._tail()}")
            time.sleep(POLL_INTERVAL_S)

    def log_text(self) -> str:
        """The end of its log, at most 16 kB."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")

    def _tail(self) -> str:
        lines = self.log_text().splitlines()[-TAIL_LINES:]
        return "\n  ".join(["Its last log lines:", *lines]) if lines else "It logged nothing."


def start(name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str], given: bytes = b"") -> Process:
    """Start `command` with `env` as its whole environment, in the folder of its log, with `given` as its standard input.

    It dies with the thread that calls this: on Linux the kernel ties a child to the thread that forked it.
    """
    guarded = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), *command]
    with log.open("ab") as output:
        popen = subprocess.Popen(  # noqa: S603 - the commands are this package's own
            guarded, stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=log.parent, env=env, start_new_session=True
        )
    assert popen.stdin is not None  # noqa: S101 - asked for with PIPE
    with contextlib.suppress(BrokenPipeError), popen.stdin as stdin:  # a child that has ended says why in its log
        stdin.write(given)
    return Process(name=name, log=log, popen=popen)


def free_port() -> int:
    """A loopback port that nobody listens on at this moment. Another process may take it: whoever uses it must check."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def stop(processes: Sequence[Process], grace_s: float) -> None:
    """End all of `processes` at the same time: SIGTERM, at most `grace_s` seconds for all of them together, then SIGKILL."""
    deadline = time.monotonic() + grace_s
    try:
        for process in processes:
            _signal(process, signal.SIGTERM)
        for process in processes:
            _wait(process, deadline - time.monotonic())
    finally:
        for process in processes:
            _signal(process, signal.SIGKILL)
            process.popen.wait()


def _wait(process: Process, timeout_s: float) -> None:
    try:
        process.popen.wait(max(0.0, timeout_s))
    except subprocess.TimeoutExpired:
        return


def _signal(process: Process, number: signal.Signals) -> None:
    if process.is_alive():  # once its end has been collected, its id may belong to somebody else
        os.killpg(process.pid, number)


def _ending(code: int) -> str:
    return f"exit {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
