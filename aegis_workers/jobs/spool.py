"""The folder of all jobs. A job is there whole or not at all."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aegis_workers.errors import UnknownJob
from aegis_workers.jobs import disk, keyring, manifest, unfinished
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.keyring import HeldKey

_ID = re.compile(manifest.ID_PATTERN)
_NEW = ".new-"
_GONE = ".gone-"


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A folder that will be the job's."""

    job_id: str
    path: Path


class Spool:
    """The jobs under one data folder. Several processes may use it at once, all on one host."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._jobs = root / "jobs"
        self._keys = root / "keys"

    def ids(self) -> list[str]:
        """The ids of all jobs, the oldest first. Raises `SpoolUnavailable`."""
        with disk.explained(self.root):
            try:
                return sorted(path.name for path in self._jobs.iterdir() if _ID.fullmatch(path.name))
            except FileNotFoundError:
                return []

    def __contains__(self, job_id: str) -> bool:
        return _ID.fullmatch(job_id) is not None and (self._jobs / job_id).is_dir()

    def open(self, job_id: str) -> JobFolder:
        """The job of this id. Raises `UnknownJob`."""
        if job_id not in self:
            shown = job_id if _ID.fullmatch(job_id) else "of such an id"
            raise UnknownJob(f"there is no job {shown} under {self.root}: `aegis-workers jobs` lists those that are there")
        return JobFolder(self._jobs / job_id)

    @contextmanager
    def key(self, key: str) -> Iterator[HeldKey]:
        """The caller's key, for this process alone until the block ends. Waits while a submission with the same key runs."""
        with keyring.held(self._keys, key) as mine:
            yield mine

    @contextmanager
    def new(self) -> Iterator[NewJob]:
        """A folder to write a job into; it is removed at the end of the block, unless `keep` was called with it.

        Its lock tells that somebody writes there: what a killed process left behind has none, and `sweep` removes it.
        """
        with disk.explained(self.root):
            path, descriptor = unfinished.begin(self._jobs, lambda: f"{_NEW}{manifest.new_id()}")
        try:
            yield NewJob(job_id=path.name.removeprefix(_NEW), path=path)
        finally:
            if path.exists():
                shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)

    def keep(self, new: NewJob) -> JobFolder:
        """Make a folder whose files are all on the disk the job of its id. Raises `SpoolUnavailable`."""
        path = self._jobs / new.job_id
        with disk.explained(self.root):
            disk.sync_folder(new.path)
            new.path.rename(path)
            disk.sync_folder(self._jobs)
        return JobFolder(path)

    def delete(self, job_id: str) -> None:
        """Remove the job with its inputs and results; its key may stand for another one from then on.

        Raises `UnknownJob` and `SpoolUnavailable`.
        """
        folder = self.open(job_id)
        key = folder.manifest.key
        gone = self._jobs / f"{_GONE}{job_id}"
        with disk.explained(self.root):
            try:
                folder.path.rename(gone)
            except FileNotFoundError:
                raise UnknownJob(f"job {job_id} was deleted by somebody else meanwhile") from None
            disk.sync_folder(self._jobs)
            shutil.rmtree(gone, ignore_errors=True)
        if key is not None:
            keyring.forget(self._keys, key, job_id)

    def sweep(self) -> list[str]:
        """Remove what killed processes left behind, of submissions and deletions; the names of the folders that were removed."""
        with disk.explained(self.root):
            try:
                names = [path.name for path in self._jobs.iterdir() if path.name.startswith((_NEW, _GONE))]
            except FileNotFoundError:
                return []
            return [name for name in names if unfinished.remove_left(self._jobs / name)]
