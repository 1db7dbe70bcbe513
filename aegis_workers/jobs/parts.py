"""The parts of one job: written beside the results, then made part of them.

A part goes through these steps, each of which can be the last one of its process: its files are written as `*.tmp` in
`incoming`; they take their names, the lines last; Redis is told that it is collected; they are moved to `results`, the lines
last. Whoever leads next calls `settle` first. What counts is where the lines are: with them in `results` the part is collected,
with them in `incoming` it is whole, and Redis says whether it is collected; without them it never was.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aegis_workers.errors import AegisError, SpoolUnavailable
from aegis_workers.jobs import disk, part
from aegis_workers.jobs.bitmap import Bitmap
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.part import INDEX, LINES, PIECES, SUFFIXES, Content, Header, Part

_UNFINISHED = ".tmp"


class Superseded(AegisError):
    """Another leader has removed what this one was writing: this one leads no more."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What all collected parts come to: item lines by status, and the sums that came with them."""

    counts: dict[str, int]
    totals: dict[str, int | float]


class Parts:
    """The parts of `job`. Everything but reading is for the leader alone.

    Raises `SpoolFull` and `SpoolUnavailable` throughout.
    """

    def __init__(self, job: JobFolder) -> None:
        self._job = job
        self._incoming = job.incoming
        self._results = job.results

    def write(self, named: Part, content: Content) -> None:
        """Write a part whole into `incoming`; all of it is on the disk when this returns, and none of it after an error.

        Raises `FileExistsError` where this leader has written it already, and `Superseded`.
        """
        files = part.encode(content)
        if self._path(self._incoming, named, LINES).exists():
            raise FileExistsError(named.stem)
        try:
            with disk.explained(self._job.path):
                for suffix, data in files.items():
                    disk.write_new(self._unfinished(named, suffix), data)
                for suffix in files:
                    self._finish(named, suffix)
                disk.sync_folder(self._incoming)
        except BaseException:
            self.discard(named)
            raise

    def commit(self, named: Part) -> None:
        """Make a part of `incoming` one of the results; it is on the disk when this returns. Done again it changes nothing.

        Raises `Superseded` where it is in neither place.
        """
        with disk.explained(self._job.path):
            for suffix in SUFFIXES:
                self._move(named, suffix)
            if not self._path(self._results, named, LINES).exists():
                raise Superseded(f"part {named.stem} of job {self._job.id} was removed by another leader")
            disk.sync_folder(self._results)
            disk.sync_folder(self._incoming)

    def discard(self, named: Part) -> None:
        """Remove a part that was not committed, or what there is of it; its lines first, so that the rest is never a part."""
        for suffix in reversed(SUFFIXES):
            for path in (self._path(self._incoming, named, suffix), self._unfinished(named, suffix)):
                with suppress(OSError):  # what cannot be removed is no part without its lines, and `settle` removes it
                    path.unlink()

    def committed(self) -> list[Part]:
        """The parts of the results in their order. Raises `SpoolUnavailable` where one is missing between them."""
        with disk.explained(self._job.path):
            parts = sorted(self._there(self._results))
        expected = 1
        for each in parts:
            if each.first != expected:
                raise SpoolUnavailable(f"{self._results} lacks outcome {expected}: restore it from a backup, or delete the job")
            expected = each.last + 1
        return parts

    def last(self) -> int:
        """The number of the last collected outcome; 0 where there is none."""
        return max((each.last for each in self.committed()), default=0)

    def settle(self, collected: int | None, token: int) -> list[Part]:
        """Bring the folder in order after another leader: nothing older is in `incoming` when this returns. The committed parts.

        `collected` is the number up to which Redis says that outcomes are collected: whole parts that continue the results up to
        it become theirs, and all others are removed, because Redis has their outcomes still. None where Redis has forgotten the
        job: then every whole part that continues the results becomes theirs, unless it has a chunk that they have.

        `token` is the caller's own. A leader that was frozen in here thaws among a later one's files: it leaves them alone.
        """
        with disk.explained(self._job.path):
            committed = self.committed()
            for each in committed:  # whatever of them was on its way
                self._move(each, PIECES)
                self._move(each, INDEX)
            for each in self._continuing(committed, collected, token):
                self.commit(each)
                committed.append(each)
            self._clear(committed, token)
        return committed

    def headers(self) -> Iterator[Header]:
        """The headers of the committed parts, in their order."""
        return (self.header(each) for each in self.committed())

    def header(self, named: Part) -> Header:
        """The header of a committed part."""
        with disk.explained(self._job.path):
            return part.read_header(self._path(self._results, named, INDEX))

    def done(self) -> Bitmap:
        """The chunks whose outcomes are collected."""
        size = self._job.manifest.chunks
        return Bitmap.of(size, (each for header in self.headers() for each in header.chunks))

    def complete(self) -> Bitmap:
        """The items that have their line."""
        size = self._job.manifest.items
        return Bitmap.of(size, (each for header in self.headers() for each in header.items))

    def tally(self) -> Tally:
        """The lines by status, and the sums, of all committed parts."""
        counts: Counter[str] = Counter()
        totals: dict[str, int | float] = {}
        for header in self.headers():
            counts.update(header.counts)
            for name, value in header.totals.items():
                totals[name] = totals.get(name, 0) + value
        return Tally(counts=dict(counts), totals=totals)

    def pieces(self, complete: Bitmap) -> Iterator[tuple[int, int, bytes]]:
        """Item, chunk and JSON of each collected piece whose item is not `complete`, in the order of collection."""
        with disk.explained(self._job.path):
            for each in self.committed():
                if self.header(each).pieces:
                    yield from self._pieces(each, complete)

    def lines(self, named: Part) -> list[tuple[int, int, str]]:
        """Item, offset and status of each line of a committed part."""
        with disk.explained(self._job.path):
            return part.read_lines(self._path(self._results, named, INDEX))

    def places(self, named: Part) -> list[tuple[int, int, int]]:
        """Item, chunk and offset of each piece of a committed part."""
        with disk.explained(self._job.path):
            return part.read_pieces(self._path(self._results, named, INDEX))

    def piece(self, named: Part, offset: int) -> bytes:
        """The JSON of the piece at this offset of a committed part."""
        with disk.explained(self._job.path), self._path(self._results, named, PIECES).open("rb") as file:
            file.seek(offset)
            return file.readline().removesuffix(b"\n")

    def path(self, named: Part) -> Path:
        """The file that has the lines of a committed part."""
        return self._path(self._results, named, LINES)

    def _pieces(self, named: Part, complete: Bitmap) -> Iterator[tuple[int, int, bytes]]:
        places = part.read_pieces(self._path(self._results, named, INDEX))
        with self._path(self._results, named, PIECES).open("rb") as file:
            for item, chunk, offset in places:
                if item not in complete:
                    file.seek(offset)
                    yield item, chunk, file.readline().removesuffix(b"\n")

    def _continuing(self, committed: Sequence[Part], collected: int | None, token: int) -> Iterator[Part]:
        """The whole parts of `incoming` that become results, each after the one before it."""
        whole = [each for each in self._there(self._incoming) if each.token <= token and self._is_whole(each)]
        done = Bitmap(0) if collected is not None else self.done()
        last = committed[-1].last if committed else 0
        while following := self._following(whole, last, collected, done):
            yield following
            last = following.last

    def _following(self, whole: Iterable[Part], last: int, collected: int | None, done: Bitmap) -> Part | None:
        # Of two that begin alike, the later leader's: the earlier one led no more when that was written, and was never heard.
        for each in sorted(whole, key=lambda each: -each.token):
            if each.first != last + 1:
                continue
            if collected is not None and each.last <= collected:
                return each
            if collected is None and self._add_new(each, done):
                return each
        return None

    def _add_new(self, named: Part, done: Bitmap) -> bool:
        """Whether none of the part's chunks is in `done`; they are then."""
        chunks = part.read_header(self._where(named, INDEX)).chunks
        if done.overlaps(chunks):
            return False
        for each in chunks:
            done.add(each)
        return True

    def _is_whole(self, named: Part) -> bool:
        with suppress(FileNotFoundError):
            header = part.read_header(self._where(named, INDEX))
            return not header.pieces or self._where(named, PIECES).exists()
        return False

    def _where(self, named: Part, suffix: str) -> Path:
        """The file of a part that may be on its way from `incoming` to `results`."""
        moved = self._path(self._results, named, suffix)
        return moved if moved.exists() else self._path(self._incoming, named, suffix)

    def _clear(self, committed: Sequence[Part], token: int) -> None:
        for each in self._there(self._incoming):
            if each.token <= token:
                self._path(self._incoming, each, LINES).unlink(missing_ok=True)
        disk.sync_folder(self._incoming)
        kept = {each.stem for each in committed}
        for path in [*self._incoming.iterdir(), *self._results.iterdir()]:
            named = Part.parse(path.name.partition(".")[0])
            if named is None or (named.token <= token and (path.parent == self._incoming or named.stem not in kept)):
                path.unlink(missing_ok=True)
        disk.sync_folder(self._incoming)
        disk.sync_folder(self._results)

    def _finish(self, named: Part, suffix: str) -> None:
        try:
            self._unfinished(named, suffix).rename(self._path(self._incoming, named, suffix))
        except FileNotFoundError:
            raise Superseded(f"part {named.stem} of job {self._job.id} was removed by another leader") from None

    def _move(self, named: Part, suffix: str) -> None:
        with suppress(FileNotFoundError):
            self._path(self._incoming, named, suffix).rename(self._path(self._results, named, suffix))

    def _there(self, folder: Path) -> list[Part]:
        """The parts whose lines are in the folder."""
        found = [Part.parse(path.stem) for path in folder.iterdir() if path.suffix == LINES]
        return [each for each in found if each is not None]

    def _unfinished(self, named: Part, suffix: str) -> Path:
        return self._incoming / f"{named.stem}{suffix}{_UNFINISHED}"

    def _path(self, folder: Path, named: Part, suffix: str) -> Path:
        return folder / f"{named.stem}{suffix}"
