"""What comes of outcomes on their way to the disk: lines of items that are complete, pieces of those that are not yet.

A line that came whole stays as it is. The pieces of an item come in any order; its line is made when the last one is in.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from aegis_workers.dispatch import reading, report
from aegis_workers.dispatch.requests import Request, RequestChunk
from aegis_workers.extraction import schema as schemas
from aegis_workers.extraction.schema import Schema
from aegis_workers.jobs import failures
from aegis_workers.jobs.bitmap import Bitmap
from aegis_workers.jobs.failures import Ending
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.items import Item
from aegis_workers.jobs.part import Piece, ResultLine
from aegis_workers.outcome import Problem, Status
from aegis_workers.settings import Settings
from aegis_workers.state import job_totals
from aegis_workers.state.job_outcomes import Kind, Recorded
from aegis_workers.state.job_totals import Totals

# Items that get their last line in one part, where a job is broken off.
_ITEMS_AT_ONCE = 2000


@dataclass(kw_only=True)
class Gathered:
    """What the outcomes `first` to `last` came to. `chunks`: whose they are; `doubled`: how many were dropped.

    `outcome` is the last one as Redis has it; None where the leader itself ends what has none.
    """

    first: int
    last: int
    outcome: Recorded | None = None
    lines: list[ResultLine] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    chunks: set[int] = field(default_factory=set)
    endings: list[Ending] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    size_bytes: int = 0
    doubled: int = 0

    @property
    def items(self) -> Mapping[Status, int]:
        """The items that became complete, by status."""
        return Counter(Status(line.status) for line in self.lines)


class Gatherer:
    """Gathers for one job. `earlier` returns the pieces of an item that are on disk."""

    def __init__(self, folder: JobFolder, earlier: Callable[[int], Sequence[bytes]], settings: Settings) -> None:
        self._folder = folder
        self._settings = settings
        self._earlier = earlier

    @cached_property
    def _schema(self) -> Schema:
        return schemas.compile(self._folder.manifest.json_schema)

    def gather(self, outcomes: Sequence[Recorded], done: Bitmap) -> Gathered:
        """What these come to, which are numbered without a gap; `done` are the chunks on disk. Raises `SpoolUnavailable`."""
        found = Gathered(first=outcomes[0].number, last=outcomes[-1].number, outcome=outcomes[-1])
        pieces: dict[int, list[Piece]] = defaultdict(list)
        totals = []
        for outcome in outcomes:
            found.size_bytes += outcome.size_bytes
            if outcome.chunk in done or outcome.chunk in found.chunks:
                found.doubled += 1
                continue
            found.chunks.add(outcome.chunk)
            totals.append(outcome.totals)
            item = self._folder.index.item_of(outcome.chunk)
            if outcome.kind is Kind.LINE:
                found.lines.append(ResultLine(item=item, status=outcome.status.value, data=outcome.body))
                found.endings.append(failures.ending(outcome.status, outcome.body))
            else:
                pieces[item].append(Piece(item=item, chunk=outcome.chunk, data=outcome.body))
        found.totals = job_totals.total(totals)
        self._complete(pieces, done, found)
        return found

    def _complete(self, pieces: Mapping[int, Sequence[Piece]], done: Bitmap, found: Gathered) -> None:
        """Makes the lines of the items whose last chunk is in, and keeps the pieces of the others."""
        for item, new in pieces.items():
            chunks = self._folder.index.chunks_of(item)
            if all(chunk in done or chunk in found.chunks for chunk in chunks):
                line = self._merged(self._folder.item(item), [piece.data for piece in new])
                found.lines.append(line)
                found.endings.append(failures.ending(Status(line.status), line.data))
            else:
                found.pieces.extend(new)

    def break_off(self, first: int, status: Status, reason: str, done: Bitmap) -> Gathered | None:
        """The last lines of the next items that lack one, as outcomes from number `first` on; None where none lacks it.

        What chunks of theirs came to is in them; the others end as `status`, for this reason.
        """
        found = Gathered(first=first, last=first - 1)
        for item in self._open_items(done):
            chunks = range(item.first_chunk, item.first_chunk + item.chunks)
            found.chunks.update(chunk for chunk in chunks if chunk not in done)
            found.lines.append(self._broken_off(item, status, Problem(error_class=status.value, message=reason)))
            if len(found.lines) == _ITEMS_AT_ONCE:
                break
        found.last += len(found.chunks)
        return found if found.lines else None

    def _open_items(self, done: Bitmap) -> Iterator[Item]:
        index, after = self._folder.index, 0
        for first, last in done.missing():
            begin, end = max(after, index.item_of(first)), index.item_of(last)
            if begin <= end:
                yield from self._folder.items(begin, end)
                after = end + 1

    def _broken_off(self, item: Item, status: Status, problem: Problem) -> ResultLine:
        if item.text is not None:
            return self._merged(item, (), missing=(status, problem))
        request = Request(n=item.first_chunk, custom_id=item.custom_id, body=None)
        end = RequestChunk(request=request, job_id=self._folder.id, settings=self._settings).unread(status, problem)
        return ResultLine(item=item.number, status=end.outcome.status.value, data=end.outcome.body)

    def _merged(self, item: Item, new: Iterable[bytes], *, missing: tuple[Status, Problem] | None = None) -> ResultLine:
        bodies = {json.loads(body)["index"]: body for body in (*self._earlier(item.number), *new)}
        spans = [chunk.span for chunk in self._folder.cut(item) if chunk.span is not None]
        reads = [
            report.decode_piece(bodies[span.index], span)
            if span.index in bodies or missing is None
            else reading.unread(span, *missing)
            for span in spans
        ]
        result = report.result(reads, self._schema)
        return ResultLine(item=item.number, status=result["status"], data=report.encode(report.line(item, result)))
