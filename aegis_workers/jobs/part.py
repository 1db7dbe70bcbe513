"""One part of a job's results: the outcomes of a run of numbers, as files that are written whole.

`<first>-<last>-<token>.jsonl` has the result lines, `.pieces` what merging needs of chunks whose items are not complete yet
(absent where there is none), and `.idx` three lines of JSON: the header, `[item, offset, status]` of each result line, and
`[item, chunk, offset]` of each piece. `token` is the fencing token of the leader that wrote it.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from aegis_workers.errors import SpoolUnavailable
from aegis_workers.jobs.bitmap import Range, ranges_of

LINES = ".jsonl"
PIECES = ".pieces"
INDEX = ".idx"
# In the order in which they take their names; a part is there once its lines are.
SUFFIXES = (PIECES, INDEX, LINES)

_NAME = re.compile(r"(\d{12,})-(\d{12,})-(\d+)")


@dataclass(frozen=True, kw_only=True, order=True)
class Part:
    """Its name: the outcomes `first` to `last`, both inclusive and counted from 1."""

    first: int
    last: int
    token: int

    @property
    def stem(self) -> str:
        """What the names of its files begin with."""
        return f"{self.first:012d}-{self.last:012d}-{self.token}"

    @classmethod
    def parse(cls, stem: str) -> Self | None:
        """The part whose files have this stem; None where it is no part's."""
        found = _NAME.fullmatch(stem)
        return None if found is None else cls(first=int(found[1]), last=int(found[2]), token=int(found[3]))


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultLine:
    """The result of a complete item: `data` is JSON without a line feed."""

    item: int
    status: str
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What merging needs of one chunk: `data` is JSON without a line feed."""

    item: int
    chunk: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a part holds: the `chunks` whose outcomes are in it, the lines of items that it completes, pieces, and sums."""

    chunks: Sequence[Range]
    lines: Sequence[ResultLine] = ()
    pieces: Sequence[Piece] = ()
    totals: Mapping[str, int | float] = field(default_factory=dict)


class Header(BaseModel):
    """What a job is put together from again: `items` are those that have their line here, `counts` the lines by status."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    chunks: tuple[Range, ...]
    items: tuple[Range, ...]
    counts: dict[str, int]
    totals: dict[str, int | float]
    size_bytes: int
    pieces: int


def encode(content: Content) -> dict[str, bytes]:
    """The content of each file, by its suffix and in the order of `SUFFIXES`."""
    lines, places = _joined([line.data for line in content.lines])
    pieces, piece_places = _joined([piece.data for piece in content.pieces])
    header = Header(
        chunks=tuple(content.chunks),
        items=tuple(ranges_of(line.item for line in content.lines)),
        counts=Counter(line.status for line in content.lines),
        totals=dict(content.totals),
        size_bytes=len(lines),
        pieces=len(content.pieces),
    )
    index = (
        header.model_dump(),
        [(line.item, place, line.status) for line, place in zip(content.lines, places, strict=True)],
        [(piece.item, piece.chunk, place) for piece, place in zip(content.pieces, piece_places, strict=True)],
    )
    written = "".join(f"{json.dumps(each, separators=(',', ':'))}\n" for each in index).encode()
    return {**({PIECES: pieces} if content.pieces else {}), INDEX: written, LINES: lines}


def read_header(path: Path) -> Header:
    """The header of an `.idx` file. Raises `OSError`, and `SpoolUnavailable` where it is none."""
    with path.open("rb") as file:
        line = file.readline()
    try:
        return Header.model_validate_json(line)
    except ValueError:
        raise _damaged(path) from None


def read_lines(path: Path) -> list[tuple[int, int, str]]:
    """Item, offset and status of each result line, by an `.idx` file. Raises likewise."""
    return [(item, offset, str(status)) for item, offset, status in _read(path, 1)]


def read_pieces(path: Path) -> list[tuple[int, int, int]]:
    """Item, chunk and offset of each piece, by an `.idx` file. Raises likewise."""
    return [(item, chunk, int(offset)) for item, chunk, offset in _read(path, 2)]


def _read(path: Path, number: int) -> list[tuple[int, int, str | int]]:
    try:
        entries: list[tuple[int, int, str | int]] = json.loads(path.read_bytes().split(b"\n")[number])
    except (ValueError, IndexError):
        raise _damaged(path) from None
    return entries


def _joined(lines: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """The lines as a file, and where each of them begins."""
    places, offset = [], 0
    for line in lines:
        places.append(offset)
        offset += len(line) + 1
    return b"".join(line + b"\n" for line in lines), places


def _damaged(path: Path) -> SpoolUnavailable:
    return SpoolUnavailable(f"{path} is damaged: restore it from a backup, or delete the job")
