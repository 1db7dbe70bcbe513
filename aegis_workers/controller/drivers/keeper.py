"""Keeps one engine: `python keeper.py FOLDER NAME LOCK_FD GRACE_S LOG_BYTES COMMAND…` leaves the controller and runs the command.

It says in FOLDER/NAME.json who it is before the command runs, so that a controller that dies in between leaves nothing unknown.
The lock that it was given stays locked for as long as it lives, and it lives for as long as anything of the engine does: whatever
the command forks comes to it when its own parent dies. It keeps the log within bounds. At SIGTERM it ends them all: SIGTERM, then
SIGKILL. The file is run by its path and imports nothing of this package, so that it costs 20 ms and little memory.
"""

import ctypes
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

# From linux/prctl.h.
_PR_SET_CHILD_SUBREAPER = 36
_TICK_S = 0.5
# While what ignores SIGTERM is killed, and what it forked meanwhile.
_KILL_EVERY_S = 0.05
_LOGS_KEPT = 3
_NOT_STARTED = 127
_PROC = Path("/proc")
# In the environment of the command, and so of all that it forks: it says whose they are when nothing else does any more.
_MARK = "KEPT_BY_AEGIS_WORKERS"
# Python ignores them, and what it starts would too.
_PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)


class Entry(NamedTuple):
    """A living process. `began` is its start, in clock ticks since the machine's: with the id, it means one process for ever."""

    pid: int
    parent: int
    session: int
    began: int


def table() -> dict[int, Entry]:
    """Every process of this machine that can still run."""
    return {entry.pid: entry for folder in _PROC.glob("[0-9]*") for entry in read(int(folder.name))}


def read(pid: int) -> Iterator[Entry]:
    """The process of that id, if there is one that can still run."""
    with suppress(OSError):
        # A name may hold blanks and brackets. See proc(5) for the fields behind it.
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        if fields[0] not in {b"Z", b"X"}:
            yield Entry(pid=pid, parent=int(fields[1]), session=int(fields[3]), began=int(fields[19]))


def boot() -> str:
    """What tells this run of the machine from every other."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def mark(pid: int, began: int) -> str:
    """What stands in the environment of everything that this keeper has started."""
    return f"{_MARK}={pid}.{began}"


def marked(pid: int, began: int, among: Mapping[int, Entry]) -> set[int]:
    """Those that this keeper has started, wherever they went; not those that gave up or wrote over their environment."""
    ours = mark(pid, began).encode()
    return {entry.pid for entry in among.values() if entry.began >= began and ours in _environment(entry.pid)}


def _environment(pid: int) -> list[bytes]:
    with suppress(OSError):  # another user's, or gone
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    return []


def below(pids: set[int], among: Mapping[int, Entry]) -> set[int]:
    """These processes' children, and theirs, to the last."""
    found: set[int] = set()
    fresh = set(pids)
    while fresh:
        fresh = {entry.pid for entry in among.values() if entry.parent in fresh} - found - pids
        found |= fresh
    return found


class Keeper:
    """The engine's keeper. It has one thread, so that no child's id can be somebody else's before it has collected the child."""

    def __init__(self, folder: Path, name: str, *, grace_s: float, log_bytes: int) -> None:
        self._record = folder / f"{name}.json"
        self._log = folder / f"{name}.log"
        self._grace_s = grace_s
        self._log_bytes = log_bytes
        (me,) = read(os.getpid())
        who = {"pid": me.pid, "began": me.began, "boot": boot()}
        self._known: dict[str, Any] = {**who, "stopping": False, "status": None, "over": False}
        name, _, value = mark(me.pid, me.began).partition("=")
        self._given = {**os.environ, name: value}
        self._main = 0
        self._kill_at = float("inf")

    def keep(self, command: list[str], seen: int) -> None:
        """Returns when nothing of the engine is left. Closes `seen` once it has said who it is, and has written there."""
        self._say()
        os.write(seen, b".")
        os.close(seen)
        self._move_logs()
        self._start(command)
        while self._collect():
            number = signal.sigtimedwait({signal.SIGTERM, signal.SIGCHLD}, self._pause_s())
            if number is not None and number.si_signo == signal.SIGTERM and not self._known["stopping"]:
                self._stop()
            if time.monotonic() >= self._kill_at:
                self._signal(signal.SIGKILL)
            self._bound_log()
        self._say(over=True)

    def _say(self, **more: Any) -> None:
        self._known |= more
        fresh = self._record.with_suffix(".new")
        fresh.write_text(json.dumps(self._known))
        fresh.replace(self._record)

    def _start(self, command: list[str]) -> None:
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        try:
            self._main = os.posix_spawnp(command[0], command, self._given, setpgroup=0, setsigmask=(), setsigdef=_PYTHONS_OWN)
        except OSError as error:
            sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}\n")
            self._say(status=_NOT_STARTED)

    def _collect(self) -> bool:
        """Takes the ends of those that have ended; whether any is left."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._main:
                    self._say(status=os.waitstatus_to_exitcode(status))
        return False

    def _stop(self) -> None:
        self._say(stopping=True)
        self._kill_at = time.monotonic() + self._grace_s
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        for pid in below({os.getpid()}, table()):
            with suppress(OSError):
                os.kill(pid, number)

    def _pause_s(self) -> float:
        left_s = self._kill_at - time.monotonic()
        return _KILL_EVERY_S if left_s <= 0 else min(_TICK_S, left_s)

    def _bound_log(self) -> None:
        """What has been written is copied away and cut off in place: the engine has the file open, and goes on at its new end."""
        with suppress(OSError):  # a log that somebody removed
            if self._log.stat().st_size > self._log_bytes:
                self._shift_logs()
                with suppress(OSError):  # a full disk: then the old part is lost
                    shutil.copyfile(self._log, f"{self._log}.1")
                os.truncate(self._log, 0)

    def _move_logs(self) -> None:
        with suppress(OSError):
            if self._log.stat().st_size:
                self._shift_logs()
                self._log.replace(f"{self._log}.1")

    def _shift_logs(self) -> None:
        for number in range(_LOGS_KEPT - 1, 0, -1):
            with suppress(FileNotFoundError):
                Path(f"{self._log}.{number}").replace(f"{self._log}.{number + 1}")


def main() -> None:
    """Leaves its parent, which has a child less to wait for, then keeps the engine. Exit status 1 if it cannot say who it is."""
    folder, name, lock, grace_s, log_bytes, *command = sys.argv[1:]
    hears, says = os.pipe()
    if os.fork():
        os.close(says)
        os._exit(0 if os.read(hears, 1) else 1)
    os.close(hears)
    os.setsid()
    os.set_inheritable(int(lock), False)  # noqa: FBT003 - the standard library's own
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    Keeper(Path(folder), name, grace_s=float(grace_s), log_bytes=int(log_bytes)).keep(command, says)


if __name__ == "__main__":
    main()
