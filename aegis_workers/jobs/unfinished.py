"""A folder in which something is being made, under a name that nobody takes for the thing itself.

Its lock tells that somebody writes there: what a killed process left behind has none, and may be removed.
"""

import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aegis_workers.jobs import disk


def begin(parent: Path, new_name: Callable[[], str]) -> tuple[Path, int]:
    """A new folder in `parent`, and the descriptor that holds its lock until it is closed. Raises `OSError`."""
    parent.mkdir(mode=disk.FOLDER_MODE, parents=True, exist_ok=True)
    while True:
        path = parent / new_name()
        path.mkdir(mode=disk.FOLDER_MODE)
        with suppress(FileNotFoundError):  # a sweep found it between these two lines
            descriptor = _locked(path)
            if path.exists():
                return path, descriptor
            os.close(descriptor)


def remove_left(path: Path) -> bool:
    """Remove the folder unless somebody writes there, or it is gone; whether it was removed. Raises `OSError`."""
    try:
        descriptor = _locked(path, wait=False)
    except (FileNotFoundError, BlockingIOError):
        return False
    try:
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)
    return True


def _locked(folder: Path, *, wait: bool = True) -> int:
    """A descriptor that holds the folder's lock until it is closed. Raises `BlockingIOError` where another has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
