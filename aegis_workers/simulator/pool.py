"""One host's memory as the simulators share it: a JSON file that says how much there is, who holds it and what is free.

Every change is made under a lock beside the file, and the file is replaced whole: who only reads it never sees half of one.
"""

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

# More digits than anybody reads; without it a share given back would change the file by nothing that counts.
_DIGITS = 3
# In /proc/PID/stat, counted from behind the command's name, which may hold anything.
_STATE_FIELD, _START_FIELD = 0, 19


class PoolUnusable(Exception):
    """The file is none that simulators can share."""


@dataclass
class TooLittleFree(Exception):
    """Less is free than was asked for."""

    asked_gb: float
    free_gb: float
    total_gb: float


class Holder(BaseModel):
    """What one process holds. `leaving_since` (epoch seconds): it gives it back, evenly over `return_s`."""

    model_config = ConfigDict(extra="forbid")

    id: str
    pid: int
    started: str
    gb: float = Field(ge=0)
    return_s: float = Field(0.0, ge=0)
    leaving_since: float | None = None

    def held_gb(self, now: float) -> float:
        """What is not back yet."""
        if self.leaving_since is None:
            return self.gb
        left_s = self.leaving_since + self.return_s - now
        return self.gb * min(1.0, left_s / self.return_s) if left_s > 0 else 0.0


class Contents(BaseModel):
    """The file. `free_gb` is what a controller reads there (`AEGIS_MEMORY_SOURCE`)."""

    model_config = ConfigDict(extra="forbid")

    total_gb: float = Field(ge=0)
    free_gb: float
    holders: list[Holder] = Field(default_factory=list)


class Pool:
    """The memory in the file at `path`. All amounts are GB; every method raises `PoolUnusable` where the file cannot be used."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now

    def open(self, total_gb: float | None) -> None:
        """See to it that the file is there. `total_gb` decides how much there is, None leaves it as it was said before."""
        with self._locked():
            found = self._read()
            total = total_gb if total_gb is not None else found and found.total_gb
            if total is None:
                raise PoolUnusable(f"{self._path} is not there yet: say how much memory there is with --memory-total-gb")
            self._write(Contents(total_gb=total, free_gb=total, holders=found.holders if found else []))

    def take(self, gb: float, *, return_s: float = 0.0, undo: str | None = None) -> str:
        """The id of so much memory, held from now until it is given back or this process ends. Raises `TooLittleFree`.

        `return_s`: how long it takes until it is back then. `undo`: an id whose memory is on its way back, of which nothing is
        given back any more: what is taken here takes its place.
        """
        with self._locked():
            contents = self._known()
            others = [holder for holder in contents.holders if holder.id != undo]
            free_gb = _free_gb(contents.total_gb, others, self._now())
            if free_gb < gb:
                raise TooLittleFree(asked_gb=gb, free_gb=free_gb, total_gb=contents.total_gb)
            mine = Holder(id=secrets.token_hex(8), pid=os.getpid(), started=_started(os.getpid()), gb=gb, return_s=return_s)
            self._write(contents.model_copy(update={"holders": [*others, mine]}))
            return mine.id

    def give_back(self, held: str) -> None:
        """Begin to give back what has this id; nothing where that is so already."""
        with self._locked():
            contents = self._known()
            leaving = [holder for holder in contents.holders if holder.id == held and holder.leaving_since is None]
            for holder in leaving:
                holder.leaving_since = self._now()
            self._write(contents)

    def settle(self) -> float:
        """What is free now, which the file says as well from then on: also of those who ended without giving anything back."""
        with self._locked():
            contents = self._known()
            return self._write(contents)

    def _known(self) -> Contents:
        found = self._read()
        if found is None:
            raise PoolUnusable(f"{self._path} is gone")
        return found

    def _read(self) -> Contents | None:
        try:
            found = Contents.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise PoolUnusable(
                f"{self._path} is no memory pool of simulators ({type(error).__name__}); take another file"
            ) from None
        now = self._now()
        for holder in found.holders:
            if holder.leaving_since is None and not _lives(holder):
                holder.leaving_since = now
        found.holders = [holder for holder in found.holders if holder.held_gb(now) or holder.leaving_since is None]
        return found

    def _write(self, contents: Contents) -> float:
        contents.free_gb = round(_free_gb(contents.total_gb, contents.holders, self._now()), _DIGITS)
        new, text = self._path.with_name(f"{self._path.name}.new"), contents.model_dump_json(indent=1)
        try:
            if not self._path.exists() or self._path.read_text(encoding="utf-8") != text:
                new.write_text(text, encoding="utf-8")
                new.replace(self._path)
        except OSError as error:
            raise PoolUnusable(f"cannot write {self._path}: {error.strerror}") from None
        return contents.free_gb

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            lock = self._path.with_name(f"{self._path.name}.lock").open("a")
        except OSError as error:
            raise PoolUnusable(f"cannot open the lock of {self._path}: {error.strerror}") from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _free_gb(total_gb: float, holders: list[Holder], now: float) -> float:
    return max(0.0, total_gb - sum(holder.held_gb(now) for holder in holders))


def _lives(holder: Holder) -> bool:
    """Whether the very process that took it still runs."""
    return _started(holder.pid) == holder.started


def _started(pid: int) -> str:
    """When the process started, in ticks since the machine did, which with its pid names it; empty for none, or a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[_STATE_FIELD] in "ZX" else fields[_START_FIELD]
