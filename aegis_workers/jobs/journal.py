"""The states of a job, one file each. A number is taken once, so that nobody overwrites what another has decided."""

import os
import re
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aegis_workers.errors import SpoolUnavailable
from aegis_workers.jobs import disk

_NAME = re.compile(r"(\d{6,})\.json")


class State(StrEnum):
    """OpenAI's states of a batch, and `stopped`: too many of the last items failed, and nothing more is fed until a resume."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    STOPPED = "stopped"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can follow."""
        return self in _TERMINAL


_TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.EXPIRED, State.CANCELLED})


class Event(StrEnum):
    """What happened. Not every event changes the state: `pinned` names the engine that the job stays on."""

    SUBMITTED = "submitted"
    PINNED = "pinned"
    STOPPED = "stopped"
    RESUMED = "resumed"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    EXPIRING = "expiring"
    ENDED = "ended"


class Entry(BaseModel):
    """One step of a job. `at` is epoch seconds; `state` holds from then on.

    The terminal entry carries the items by status in `counts`, and what the job took in `totals`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    at: float = Field(default_factory=time.time)
    event: Event
    state: State
    reason: str | None = None
    engine: str | None = None
    counts: dict[str, int] | None = None
    totals: dict[str, int | float] | None = None

    def to_json(self) -> bytes:
        """The file's content."""
        return self.model_dump_json(exclude_none=True).encode() + b"\n"


class Journal:
    """The entries in one folder, numbered from 1."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def entries(self) -> tuple[Entry, ...]:
        """All of them, the first first. Raises `SpoolUnavailable` where one is missing or unreadable."""
        return tuple(entry for _, entry in sorted(self._read().items()))

    def last(self) -> Entry:
        """The entry whose state holds now. Raises `SpoolUnavailable`."""
        entries = self.entries()
        if not entries:
            raise SpoolUnavailable(f"{self._folder} has no entry: the job's folder is damaged")
        return entries[-1]

    def append(self, number: int, entry: Entry) -> bool:
        """Make `entry` the one of this number. False where there is one already, or where the one before is terminal.

        Whoever gets False reads again and decides again. On the disk when this returns True. Raises `ValueError` for a number
        that does not follow the last one, and `SpoolUnavailable`, after which the entry may be there or not.
        """
        before = self._read()
        if number in before or any(earlier.state.is_terminal for earlier in before.values()):
            return False
        if number != len(before) + 1:
            raise ValueError(f"entry {number} cannot follow entry {len(before)}")
        with disk.explained(self._folder):
            return self._link(number, entry.to_json())

    def change(self, decide: Callable[[tuple[Entry, ...]], Entry | None]) -> Entry:
        """Append what `decide` makes of the entries, deciding again after each entry of others; None leaves them as they are.

        Returns the last entry then. A terminal one stays whatever is decided. Raises `SpoolUnavailable`.
        """
        while True:
            entries = self.entries()
            entry = None if entries and entries[-1].state.is_terminal else decide(entries)
            if entry is None:
                return self.last()
            if self.append(len(entries) + 1, entry):
                return entry

    def _link(self, number: int, data: bytes) -> bool:
        temporary = self._folder / f".{number:06d}-{uuid.uuid4().hex}.tmp"
        try:
            disk.write_new(temporary, data)
            os.link(temporary, self._folder / f"{number:06d}.json")
        except FileExistsError:
            return False
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        disk.sync_folder(self._folder)
        return True

    def _read(self) -> Mapping[int, Entry]:
        with disk.explained(self._folder):
            paths = {int(name[1]): path for path in self._folder.iterdir() if (name := _NAME.fullmatch(path.name))}
            texts = {number: path.read_bytes() for number, path in paths.items()}
        if set(texts) != set(range(1, len(texts) + 1)):
            raise SpoolUnavailable(f"{self._folder} lacks an entry: restore it from a backup, or delete the job")
        try:
            return {number: Entry.model_validate_json(text) for number, text in texts.items()}
        except ValidationError:
            raise SpoolUnavailable(
                f"{self._folder} has an entry that cannot be read: it was not written by this version"
            ) from None
