"""Which job a caller's key stands for: one file a key, locked while a job is submitted with it."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aegis_workers.jobs import disk


class HeldKey:
    """A key whose lock this process has."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> str | None:
        """The id of the job that was submitted with it; None where there is none."""
        return os.pread(self._descriptor, 100, 0).decode("ascii", "replace") or None

    def write(self, job_id: str) -> None:
        """It stands for this job from now on, and still does after a power cut."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, job_id.encode(), 0)
        os.fsync(self._descriptor)


@contextmanager
def held(folder: Path, key: str) -> Iterator[HeldKey]:
    """The key, for this process alone until the block ends; its death ends it too.

    Waits for as long as another submission with the same key takes.
    """
    path = _path(folder, key)
    while True:
        with disk.explained(folder):
            folder.mkdir(mode=disk.FOLDER_MODE, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with disk.explained(folder):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not _is_at(descriptor, path):
                    continue  # its job was deleted while we waited: the lock that counts is on another file now
                disk.sync_folder(folder)
            yield HeldKey(descriptor)
            return
        finally:
            os.close(descriptor)


def forget(folder: Path, key: str, job_id: str) -> None:
    """The key stands for no job any more, unless it stands for another one than this."""
    if not _path(folder, key).exists():
        return
    with held(folder, key) as mine:
        if mine.read() in {job_id, None}:
            _path(folder, key).unlink()


def _path(folder: Path, key: str) -> Path:
    return folder / hashlib.sha256(key.encode()).hexdigest()


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
