"""The items of a new job, written one after another in memory that does not grow with them."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from aegis_workers.jobs import disk, folder, items
from aegis_workers.jobs.index import IndexWriter
from aegis_workers.jobs.lines import Line

_ITEMS_BUFFER_BYTES = 262_144
_INDEX_BUFFER_BYTES = 65_536
# Stands for an input that was refused, so that the next one keeps its number until the job is refused as a whole.
_NO_ITEM = b"\n"


class ItemsWriter:
    """Writes `items.jsonl` and `index.bin` into a folder. Raises `SpoolFull` and `SpoolUnavailable`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with disk.explained(path):
            self._items = (path / folder.ITEMS).open("xb", _ITEMS_BUFFER_BYTES)
            self._index = (path / folder.INDEX).open("xb", _INDEX_BUFFER_BYTES)
        self.count = IndexWriter(self._index)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in (self._items, self._index):
            _close(file)

    def add(self, line: Line) -> None:
        """The next item."""
        self._write(line.data, line.chunks)

    def skip(self) -> None:
        """The next input is no item."""
        self._write(_NO_ITEM, 0)

    def end(self) -> None:
        """There are no more; all of them are on the disk when this returns."""
        with disk.explained(self._path):
            self.count.end()
            for file in (self._items, self._index):
                file.flush()
                os.fsync(file.fileno())

    def ids(self) -> Iterator[tuple[int, str]]:
        """Number and id of each item so far."""
        with disk.explained(self._path):
            self._items.flush()
            with (self._path / folder.ITEMS).open("rb") as file:
                for number, line in enumerate(file):
                    if line != _NO_ITEM:
                        yield number, items.parse(line, number, range(1)).custom_id

    def _write(self, data: bytes, chunks: int) -> None:
        try:
            self._items.write(data)
            self.count.add(len(data), chunks)
        except OSError as error:
            raise disk.failure(error, self._path) from None


def _close(file: IO[bytes]) -> None:
    """Closing writes what a full disk did not take, and fails again: whoever got this far knows already."""
    try:
        file.close()
    except OSError:
        os.close(file.fileno()) if not file.closed else None
