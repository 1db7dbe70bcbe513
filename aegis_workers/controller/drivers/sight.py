"""What can be seen of an engine that runs as a command: its keeper's record, its living processes, its lock, its log."""

import fcntl
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ValidationError

from aegis_workers.controller.drivers import keeper
from aegis_workers.controller.drivers.keeper import Entry

_TAIL_LINES = 15
_TAIL_BYTES = 4_096
# Who looks whether the lock is held has it for an instant.
_LOOKED_AT_S = 1.0


class Record(BaseModel):
    """What a keeper says of itself. `status` is how the command ended, as Python gives it; None while it runs.

    `over`: the keeper has ended, because nothing of the engine was left.
    """

    pid: int
    began: int
    boot: str
    stopping: bool
    status: int | None
    over: bool = False


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What is there now. `alive`: the processes of the engine, its keeper too; `kept`: the keeper is among them.

    `locked`: an engine runs with its keeper, or one is being started this moment.
    """

    record: Record | None = None
    alive: Mapping[int, Entry] = field(default_factory=dict)
    kept: bool = False
    locked: bool = False


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one engine in a folder of this host."""

    folder: Path
    name: str

    @property
    def log(self) -> Path:
        """What the command writes; older parts lie beside it, as `.1` to `.3`."""
        return self.folder / f"{self.name}.log"

    def look(self) -> Sight:
        """The record first, the processes then, the lock last: a keeper comes and goes in the other order."""
        record = self._read()
        alive, kept = ({}, False) if record is None else _engine_of(record, keeper.table())
        return Sight(record=record, alive=alive, kept=kept, locked=self._is_locked())

    @contextmanager
    def lock(self) -> Iterator[int]:
        """The lock's descriptor, to be passed on. Raises `BlockingIOError` where an engine runs or is being started."""
        deadline = time.monotonic() + _LOOKED_AT_S
        with (self.folder / f"{self.name}.lock").open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
            yield file.fileno()

    def tail(self) -> str:
        """The last lines of the log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])
        except OSError:
            return ""

    def _read(self) -> Record | None:
        try:
            record = Record.model_validate_json((self.folder / f"{self.name}.json").read_bytes())
        except (OSError, ValidationError):
            return None
        return record if record.boot == keeper.boot() else None

    def _is_locked(self) -> bool:
        with suppress(OSError), (self.folder / f"{self.name}.lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def _engine_of(record: Record, table: Mapping[int, Entry]) -> tuple[Mapping[int, Entry], bool]:
    """The living processes of the engine, and whether its keeper is one of them.

    Without a keeper they are those of its session, whose number nobody else can have while one of them lives, and those that it
    marked, for a daemon leaves both its session and its parent.
    """
    leader = table.get(record.pid)
    kept = leader is not None and leader.began == record.began
    if kept:
        pids = {record.pid}
    elif record.over:
        pids = set()
    else:
        pids = keeper.marked(record.pid, record.began, table)
        if leader is None:  # else the number is somebody else's, so nothing of that session was left
            pids |= {entry.pid for entry in table.values() if entry.session == record.pid and entry.began >= record.began}
    return {pid: table[pid] for pid in pids | keeper.below(pids, table)}, kept


def send(entries: Iterable[Entry], number: signal.Signals) -> None:
    """The signal to these processes, and to no other that has come to the number of one of them."""
    for entry in entries:
        with suppress(OSError):
            descriptor = os.pidfd_open(entry.pid)
            try:
                if any(found.began == entry.began for found in keeper.read(entry.pid)):
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)
