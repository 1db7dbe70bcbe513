"""Reads the results of a job, while it runs or after: each item's line once, where a retry has a newer one that one.

A reader keeps the offset of what it has read last, and goes on from there at any later time, also in another process.
"""

import re
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from aegis_workers.errors import InvalidInput
from aegis_workers.jobs import disk, family
from aegis_workers.jobs.bitmap import Bitmap
from aegis_workers.jobs.family import Member
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.part import Part
from aegis_workers.jobs.parts import Parts
from aegis_workers.jobs.spool import Spool

_PLACE = re.compile(r"(?:(job_[0-9a-f]{24})=)?(\d+):(\d+)")
_ITEM = re.compile(r"item:(\d+)")
_OPEN_FILES = 64
_NOWHERE = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """One result line. `item` counts from 0 in the job that was asked for; reading goes on after it from `offset`."""

    item: int
    status: str
    data: bytes
    offset: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """The byte of the part that begins with outcome `first` at which reading goes on."""

    first: int = 1
    byte: int = 0


def lines(spool: Spool, job: JobFolder, offset: str | None = None) -> Iterator[Read]:
    """The lines that are there now and were not read before `offset`, in the order in which they were collected.

    A line that a retry replaces is left out if the retry's is there already; one that was read before is followed by it. Raises
    `InvalidInput` for an offset that is none of this job's, and `SpoolUnavailable`.
    """
    members = family.members(spool, job)
    places = _parse(offset, members)
    replaced = family.superseded(members)
    for member in members:
        for item, status, data, place in _lines(member, places.get(member.job.id, _Place()), replaced[member.job.id]):
            places[member.job.id] = place
            yield Read(item=item, status=status, data=data, offset=_format(places, job.id))


def ordered(spool: Spool, job: JobFolder, offset: str | None = None) -> Iterator[Read]:
    """The latest lines in the order of the input, from `offset` up to the first item that has none yet.

    Takes 13 bytes of memory an item. Raises likewise.
    """
    first = _first_item(offset, job)
    latest = _Latest(job.manifest.items)
    for member in family.members(spool, job):
        latest.take(member)
    with disk.explained(job.path), _OpenFiles() as opened:
        for item in range(first, job.manifest.items):
            place = latest.place(item)
            if place is None:
                return
            path, byte, status = place
            file = opened.get(path)
            file.seek(byte)
            yield Read(item=item, status=status, data=file.readline().removesuffix(b"\n"), offset=f"item:{item + 1}")


class _Latest:
    """Where the latest line of each item is."""

    def __init__(self, items: int) -> None:
        self._files: list[Path] = []
        self._statuses: list[str] = []
        self._file = array("i", [_NOWHERE]) * items
        self._byte = array("q", [0]) * items
        self._status = array("b", [0]) * items

    def take(self, member: Member) -> None:
        """The lines of a member take the place of earlier ones."""
        parts = Parts(member.job)
        for each in parts.committed():
            self._files.append(parts.path(each))
            for item, byte, status in parts.lines(each):
                root = member.root(item)
                self._file[root], self._byte[root], self._status[root] = len(self._files) - 1, byte, self._number(status)

    def place(self, item: int) -> tuple[Path, int, str] | None:
        """File, byte and status of the item's line; None where it has none."""
        file = self._file[item]
        return None if file == _NOWHERE else (self._files[file], self._byte[item], self._statuses[self._status[item]])

    def _number(self, status: str) -> int:
        if status not in self._statuses:
            self._statuses.append(status)
        return self._statuses.index(status)


class _OpenFiles(ExitStack):
    """The files that were read last, open; there may be more parts than a process may open."""

    def __init__(self) -> None:
        super().__init__()
        self._files: OrderedDict[Path, IO[bytes]] = OrderedDict()
        self.callback(self._close_all)

    def get(self, path: Path) -> IO[bytes]:
        if path not in self._files:
            self._files[path] = path.open("rb")
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        return self._files[path]

    def _close_all(self) -> None:
        for file in self._files.values():
            file.close()


def _lines(member: Member, place: _Place, replaced: Bitmap) -> Iterator[tuple[int, str, bytes, _Place]]:
    parts = Parts(member.job)
    committed = parts.committed()
    if place.byte and place.first not in {each.first for each in committed}:
        raise _no_offset(member.job.id)
    with disk.explained(member.job.path):
        for each in committed:
            if each.first >= place.first:
                yield from _part_lines(member, parts, each, place.byte if each.first == place.first else 0, replaced)


def _part_lines(
    member: Member, parts: Parts, named: Part, byte: int, replaced: Bitmap
) -> Iterator[tuple[int, str, bytes, _Place]]:
    places = parts.lines(named)
    with parts.path(named).open("rb") as file:
        if byte not in {0, file.seek(0, 2), *(start for _, start, _ in places)}:
            raise _no_offset(member.job.id)
        for item, start, status in places:
            root = member.root(item)
            if start >= byte and root not in replaced:
                file.seek(start)
                line = file.readline()
                yield root, status, line.removesuffix(b"\n"), _Place(first=named.first, byte=start + len(line))


def _parse(offset: str | None, members: Sequence[Member]) -> dict[str, _Place]:
    """Where reading goes on, for each job of the family that the offset names."""
    if not offset:
        return {}
    found = [_PLACE.fullmatch(word) for word in offset.split(",")]
    known = {member.job.id for member in members}
    places = {each[1] or members[0].job.id: _Place(first=int(each[2]), byte=int(each[3])) for each in found if each}
    if None in found or not places.keys() <= known:
        raise _no_offset(members[0].job.id)
    return places


def _format(places: Mapping[str, _Place], root_id: str) -> str:
    return ",".join(f"{'' if job_id == root_id else f'{job_id}='}{place.first}:{place.byte}" for job_id, place in places.items())


def _first_item(offset: str | None, job: JobFolder) -> int:
    found = _ITEM.fullmatch(offset or "item:0")
    if found is None or int(found[1]) > job.manifest.items:
        raise _no_offset(job.id)
    return int(found[1])


def _no_offset(job_id: str) -> InvalidInput:
    return InvalidInput(f"the offset is none that reading the results of {job_id} gave in this order: begin without one")
