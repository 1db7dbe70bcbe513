"""One job on the disk: its manifest, journal and items."""

import sys
from array import array
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from aegis_workers.errors import SpoolUnavailable
from aegis_workers.jobs import disk, items
from aegis_workers.jobs.index import Index
from aegis_workers.jobs.items import Item, ItemChunk
from aegis_workers.jobs.journal import Journal
from aegis_workers.jobs.lines import Line
from aegis_workers.jobs.manifest import Manifest

MANIFEST = "manifest.json"
ITEMS = "items.jsonl"
INDEX = "index.bin"
PARENTS = "parents.bin"
JOURNAL = "journal"
INCOMING = "incoming"
RESULTS = "results"
CHILDREN = "children"

_PARENT_BYTES = 8


class JobFolder:
    """Reads a job that was submitted. What it returns never changes, but for the journal and the children.

    Everything here raises `SpoolUnavailable` where the folder cannot be read. It may be used by several threads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        """The job's id."""
        return self.path.name

    @property
    def incoming(self) -> Path:
        """Where parts are written."""
        return self.path / INCOMING

    @property
    def results(self) -> Path:
        """Where committed parts are."""
        return self.path / RESULTS

    @property
    def journal(self) -> Journal:
        """The job's states."""
        return Journal(self.path / JOURNAL)

    @cached_property
    def manifest(self) -> Manifest:
        """What the job is."""
        with disk.explained(self.path):
            data = (self.path / MANIFEST).read_bytes()
        try:
            return Manifest.from_json(data)
        except ValueError:
            raise self._damaged(MANIFEST) from None

    @cached_property
    def index(self) -> Index:
        """Where its items and chunks are."""
        with disk.explained(self.path):
            try:
                index = Index(self.path / INDEX)
            except ValueError:  # an empty file cannot be mapped
                raise self._damaged(INDEX) from None
        if index.items != self.manifest.items or index.first_chunk(index.items) != self.manifest.chunks:
            raise self._damaged(INDEX)
        return index

    def items(self, first: int = 0, last: int | None = None) -> Iterator[Item]:
        """The items `first` to `last`, both inclusive and counted from 0; by default all of them. One is held at a time."""
        index = self.index
        end = index.items if last is None else last + 1
        with disk.explained(self.path), (self.path / ITEMS).open("rb") as file:
            file.seek(index.offset(first))
            for number in range(first, end):
                yield self._parse(file.readline(), number)

    def item(self, number: int) -> Item:
        """One item."""
        return next(self.items(number, number))

    def line(self, number: int) -> Line:
        """One item as it is written."""
        start, end = self.index.offset(number), self.index.offset(number + 1)
        with disk.explained(self.path), (self.path / ITEMS).open("rb") as file:
            file.seek(start)
            data = file.read(end - start)
        return Line(self._parse(data, number).custom_id, data, len(self.index.chunks_of(number)))

    def parents(self) -> "array[int] | None":
        """Of a retry, the number of each item in the job that is retried; None for any other job."""
        if self.manifest.retry_of is None:
            return None
        with disk.explained(self.path):
            data = (self.path / PARENTS).read_bytes()
        if len(data) != self.manifest.items * _PARENT_BYTES:
            raise self._damaged(PARENTS)
        parents = array("Q", data)
        if sys.byteorder == "big":
            parents.byteswap()
        return parents

    def children(self) -> list[str]:
        """The ids of the jobs that retry this one, the oldest first; some of them may have been deleted, or never finished."""
        with disk.explained(self.path), suppress(FileNotFoundError):
            return sorted(path.name for path in (self.path / CHILDREN).iterdir())
        return []

    def add_child(self, job_id: str) -> None:
        """Note that a job retries this one; still there after a power cut."""
        children = self.path / CHILDREN
        with disk.explained(self.path):
            children.mkdir(mode=disk.FOLDER_MODE, exist_ok=True)
            (children / job_id).touch()
            disk.sync_folder(children)
            disk.sync_folder(self.path)

    def chunks(self, first: int = 0, last: int | None = None) -> Iterator[ItemChunk]:
        """The chunks `first` to `last`, both inclusive and counted from 0; by default all of them. One item is held at a time."""
        end = self.index.first_chunk(self.index.items) if last is None else last + 1
        if first >= end:
            return
        for item in self.items(self.index.item_of(first), self.index.item_of(end - 1)):
            yield from (chunk for chunk in self.cut(item) if first <= chunk.number < end)

    def cut(self, item: Item) -> Iterator[ItemChunk]:
        """The chunks of one of its items, by the numbers that the manifest froze."""
        manifest = self.manifest
        try:
            yield from items.cut(item, max_tokens=manifest.chunk_tokens, overlap_tokens=manifest.chunk_overlap_tokens)
        except ValueError as error:
            raise SpoolUnavailable(f"{self.path}: {error}: it was submitted by a version that cuts otherwise") from None

    def _parse(self, line: bytes, number: int) -> Item:
        try:
            return items.parse(line, number, self.index.chunks_of(number))
        except (ValueError, TypeError, KeyError):
            raise self._damaged(ITEMS) from None

    def _damaged(self, name: str) -> SpoolUnavailable:
        return SpoolUnavailable(f"{self.path / name} is damaged: restore it from a backup, or delete the job")
