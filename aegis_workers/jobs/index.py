"""Where each item's line begins, and which chunks are its own: one record of 16 bytes an item, and one that ends the last."""

import mmap
import struct
from bisect import bisect_right
from pathlib import Path
from typing import IO

_RECORD = struct.Struct("<QQ")


class IndexWriter:
    """Writes the records as the lines are written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.items = 0
        self.bytes = 0
        self.chunks = 0

    def add(self, line_bytes: int, chunks: int) -> None:
        """The next item's line has so many bytes, its line feed included, and so many chunks."""
        self._file.write(_RECORD.pack(self.bytes, self.chunks))
        self.items += 1
        self.bytes += line_bytes
        self.chunks += chunks

    def end(self) -> None:
        """There are no more items."""
        self._file.write(_RECORD.pack(self.bytes, self.chunks))


class Index:
    """Reads them. Numbers count from 0."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.items = len(self._map) // _RECORD.size - 1

    def offset(self, item: int) -> int:
        """Byte at which the item's line begins; that of `items` is the end of the last one."""
        return self._record(item)[0]

    def first_chunk(self, item: int) -> int:
        """The number of the item's first chunk; that of `items` is the count of all chunks."""
        return self._record(item)[1]

    def chunks_of(self, item: int) -> range:
        """The numbers of the item's chunks."""
        return range(self.first_chunk(item), self.first_chunk(item + 1))

    def item_of(self, chunk: int) -> int:
        """The item that the chunk is of."""
        chunks = self.first_chunk(self.items)
        if not 0 <= chunk < chunks:
            raise IndexError(f"there is no chunk {chunk}")
        if chunks == self.items:  # one each: short texts, which come in large numbers
            return chunk
        return bisect_right(range(self.items), chunk, key=self.first_chunk) - 1

    def _record(self, item: int) -> tuple[int, int]:
        if not 0 <= item <= self.items:
            raise IndexError(f"there is no item {item}")
        offset, chunk = _RECORD.unpack_from(self._map, item * _RECORD.size)
        return offset, chunk
