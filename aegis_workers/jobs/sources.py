"""Where the items of a job come from: files, a stream, or anything that Python can iterate over."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from aegis_workers.errors import InvalidInput
from aegis_workers.jobs.lines import Record
from aegis_workers.jobs.manifest import Origin

STDIN = "-"
_JSON_LINES = frozenset({".jsonl", ".ndjson"})
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A character of a text takes up to six bytes as a JSON escape; the rest of a line is small beside it.
_ESCAPED_BYTES = 6
_ROOM_BYTES = 65_536


class Source(Protocol):
    """The records of a job, read once and one at a time; `place` says of a record's number where a person finds it."""

    @property
    def name(self) -> str:
        """What it is called in the manifest."""

    @property
    def origin(self) -> Origin:
        """Which way it came."""

    def __iter__(self) -> Iterator[Record]: ...

    def place(self, number: int) -> str:
        """Where the record of this number stands; numbers count from 0."""


@dataclass(frozen=True, kw_only=True)
class Items:
    """Strings, `(id, text)` pairs and objects from a program."""

    items: Iterable[Record]
    name: str = "items"
    origin: Origin = Origin.PYTHON

    def __iter__(self) -> Iterator[Record]:
        return iter(self.items)

    def place(self, number: int) -> str:
        """The item by its index."""
        return f"items[{number}]"


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Files of plain text or Markdown, each an item whose id is its path as it was given."""

    paths: Sequence[str]
    max_bytes: int
    origin: Origin = Origin.PATH

    @property
    def name(self) -> str:
        """The first of the files, and how many more."""
        return _name(self.paths)

    def __iter__(self) -> Iterator[Record]:
        return (self._read(path) for path in self.paths)

    def place(self, number: int) -> str:
        """The file."""
        return self.paths[number]

    def _read(self, path: str) -> Record:
        try:
            with Path(path).open("rb") as file:
                data = file.read(self.max_bytes + len(_BYTE_ORDER_MARK) + 1)
        except OSError as error:
            return InvalidInput(error.strerror or repr(error))
        if len(data.removeprefix(_BYTE_ORDER_MARK)) > self.max_bytes:
            return InvalidInput(f"larger than the {self.max_bytes:,} bytes of AEGIS_MAX_TEXT_BYTES: split it, or raise the limit")
        try:
            return Path(path).as_posix(), data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return InvalidInput(f"not UTF-8 (byte {error.start}): convert it, for instance with iconv -f latin1 -t utf-8")


class JsonLines:
    """Files of JSON Lines, and the stream that `-` stands for. Blank lines may end a file, and stand nowhere else."""

    def __init__(
        self, paths: Sequence[str], *, stdin: IO[bytes] | None, max_text_bytes: int, origin: Origin = Origin.PATH
    ) -> None:
        self.name = _name(paths)
        self.origin = origin
        self._paths = paths
        self._stdin = stdin
        self._max_line_bytes = max_text_bytes * _ESCAPED_BYTES + _ROOM_BYTES
        self._first_numbers: list[int] = []

    def __iter__(self) -> Iterator[Record]:
        number = 0
        for path in self._paths:
            self._first_numbers.append(number)
            for record in self._read(path):
                yield record
                number += 1

    def place(self, number: int) -> str:
        """The file, where there are several, and the line, counted from 1."""
        index = max(index for index, first in enumerate(self._first_numbers) if first <= number)
        line = f"line {number - self._first_numbers[index] + 1}"
        return line if len(self._paths) == 1 else f"{self._paths[index]} {line}"

    def _read(self, path: str) -> Iterator[Record]:
        try:
            with self._opened(path) as file:
                yield from self._lines(file)
        except OSError as error:
            yield InvalidInput(f"the file cannot be read ({error.strerror or repr(error)})")

    def _opened(self, path: str) -> AbstractContextManager[IO[bytes]]:
        if path != STDIN:
            return Path(path).open("rb")
        if self._stdin is None:
            raise InvalidInput("- stands for a stream, and there is none here")
        return nullcontext(self._stdin)

    def _lines(self, file: IO[bytes]) -> Iterator[Record]:
        blank = 0
        line = file.readline(self._max_line_bytes).removeprefix(_BYTE_ORDER_MARK)
        while line:
            if line.isspace():
                blank += 1
            else:
                yield from (b"" for _ in range(blank))
                blank = 0
                yield self._whole(file, line)
            line = file.readline(self._max_line_bytes)

    def _whole(self, file: IO[bytes], line: bytes) -> Record:
        if len(line) < self._max_line_bytes or line.endswith(b"\n"):
            return line
        while line and not line.endswith(b"\n"):
            line = file.readline(self._max_line_bytes)
        return InvalidInput(f"longer than {self._max_line_bytes:,} bytes: split the text, or raise AEGIS_MAX_TEXT_BYTES")


def of_paths(paths: Sequence[str], *, stdin: IO[bytes] | None, max_text_bytes: int) -> Source:
    """JSON Lines, by a file's ending or `-`, or else texts. Raises `InvalidInput` where both are named, or a JSON document."""
    if any(Path(path).suffix.lower() == ".json" for path in paths):
        raise InvalidInput("a .json file is no text: give JSON Lines, one object a line, in a file that ends in .jsonl")
    lines = [path for path in paths if path == STDIN or Path(path).suffix.lower() in _JSON_LINES]
    if not lines:
        return Texts(paths=paths, max_bytes=max_text_bytes)
    if len(lines) < len(paths):
        raise InvalidInput("files of JSON Lines and text files cannot be in one job: submit them apart")
    return JsonLines(paths, stdin=stdin, max_text_bytes=max_text_bytes)


def _name(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
