"""Files that were uploaded, one folder each. A file is there whole or not at all."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from aegis_workers.admin.failures import UnknownFile
from aegis_workers.errors import SpoolUnavailable
from aegis_workers.jobs import disk, unfinished

ID_PATTERN = r"file-[0-9a-f]{24}"
_ID = re.compile(ID_PATTERN)
_NEW = ".new-"
_GONE = ".gone-"
_CONTENT = "content"
_ABOUT = "file.json"


class Upload(BaseModel):
    """What is known of an uploaded file. Times are epoch seconds; it is gone after `expires_at`, if that is set."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    id: str
    name: str
    size_bytes: int
    created_at: float
    expires_at: float | None = None

    @property
    def is_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= time.time()


class NewUpload:
    """A file that is being received."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self._file = (path / _CONTENT).open("xb", buffering=0)

    def write(self, data: bytes) -> None:
        """Append to its content. Raises `SpoolFull` and `SpoolUnavailable`."""
        with disk.explained(self.path):
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        self.size_bytes += len(data)

    def close(self) -> None:
        """All of the content is on the disk when this returns."""
        with disk.explained(self.path):
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Uploads:
    """The uploaded files under one data folder."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "files"

    @contextmanager
    def new(self) -> Iterator[NewUpload]:
        """A place for one more file, removed at the end of the block unless `keep` was called with it.

        Its lock tells that somebody writes there: what a killed process left behind has none, and `sweep` removes it.
        """
        with disk.explained(self._folder):
            path, descriptor = unfinished.begin(self._folder, lambda: f"{_NEW}{_new_id()}")
        try:
            with disk.explained(path):
                upload = NewUpload(path)
            with upload:
                yield upload
        finally:
            if path.exists():
                shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)

    def keep(self, new: NewUpload, name: str, expires_s: float | None) -> Upload:
        """Make what was received the file of its id; it survives everything once this returns."""
        now_s = time.time()
        upload = Upload(
            id=new.path.name.removeprefix(_NEW),
            name=name,
            size_bytes=new.size_bytes,
            created_at=now_s,
            expires_at=None if expires_s is None else now_s + expires_s,
        )
        new.close()
        with disk.explained(self._folder):
            disk.write_new(new.path / _ABOUT, upload.model_dump_json().encode())
            disk.sync_folder(new.path)
            new.path.rename(self._folder / upload.id)
            disk.sync_folder(self._folder)
        return upload

    def all(self) -> list[Upload]:
        """Every file, the oldest first. Raises `SpoolUnavailable`."""
        found = []
        for file_id in self._names(_ID):
            with suppress(UnknownFile):  # deleted since its name was read
                found.append(self.get(file_id))
        return found

    def get(self, file_id: str) -> Upload:
        """What is known of one file. Raises `UnknownFile` and `SpoolUnavailable`."""
        if _ID.fullmatch(file_id) is None:
            raise _unknown(file_id)
        with disk.explained(self._folder):
            try:
                text = (self._folder / file_id / _ABOUT).read_bytes()
            except FileNotFoundError:
                raise _unknown(file_id) from None
        try:
            upload = Upload.model_validate_json(text)
        except ValueError:
            raise SpoolUnavailable(
                f"{self._folder / file_id / _ABOUT} is damaged: upload the file again, delete this one"
            ) from None
        if upload.is_expired:
            raise _unknown(file_id)
        return upload

    def content(self, file_id: str) -> Path:
        """Where the bytes of one file are. Raises `UnknownFile` and `SpoolUnavailable`."""
        return self._folder / self.get(file_id).id / _CONTENT

    def delete(self, file_id: str) -> None:
        """Remove one file; jobs that were made of it have inputs of their own. Raises `UnknownFile` and `SpoolUnavailable`."""
        if _ID.fullmatch(file_id) is None:
            raise _unknown(file_id)
        gone = self._folder / f"{_GONE}{file_id}"
        with disk.explained(self._folder):
            try:
                (self._folder / file_id).rename(gone)
            except FileNotFoundError:
                raise _unknown(file_id) from None
            disk.sync_folder(self._folder)
            shutil.rmtree(gone, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed processes left behind, and files whose time is over. Raises `SpoolUnavailable`."""
        now_s = time.time()
        for name in self._names(re.compile(rf"({re.escape(_NEW)}|{re.escape(_GONE)}){ID_PATTERN}")):
            with suppress(OSError):  # another sweep finds it again
                unfinished.remove_left(self._folder / name)
        for file_id in self._names(_ID):
            with suppress(OSError, ValueError):  # a damaged one is for a person to look at
                upload = Upload.model_validate_json((self._folder / file_id / _ABOUT).read_bytes())
                if upload.expires_at is not None and upload.expires_at <= now_s:
                    self.delete(file_id)

    def _names(self, pattern: re.Pattern[str]) -> list[str]:
        with disk.explained(self._folder):
            try:
                return sorted(path.name for path in self._folder.iterdir() if pattern.fullmatch(path.name))
            except FileNotFoundError:
                return []


def _new_id() -> str:
    """Ids sort by the time at which they were made, to the millisecond."""
    return f"file-{int(time.time() * 1000):012x}{os.urandom(6).hex()}"


def _unknown(file_id: str) -> UnknownFile:
    shown = file_id if _ID.fullmatch(file_id) else "of such an id"
    return UnknownFile(f"there is no file {shown}: it never was, was deleted, or its time is over")
