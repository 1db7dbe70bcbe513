"""Files that survive a power cut, and what the system says when it takes none."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aegis_workers.errors import SpoolFull, SpoolUnavailable

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
# What jobs hold is their owner's only.
FOLDER_MODE = 0o700


def failure(error: OSError, folder: Path) -> SpoolUnavailable:
    """What to raise for an error of the system under `folder`."""
    reason = error.strerror or repr(error)
    if error.errno in _NO_ROOM:
        return SpoolFull(f"{folder} takes nothing in ({reason}): make room on its file system, then do it again")
    return SpoolUnavailable(f"{folder} cannot be used ({reason}): see that AEGIS_DATA_DIR is a folder of yours on a local disk")


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turns an error of the system in the block into `SpoolFull` or `SpoolUnavailable`."""
    try:
        yield
    except OSError as error:
        raise failure(error, folder) from None


def write_new(path: Path, data: bytes) -> None:
    """A new file with `data`, on the disk when this returns, its name not yet. Raises `FileExistsError`."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """The names in `folder` are on the disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
