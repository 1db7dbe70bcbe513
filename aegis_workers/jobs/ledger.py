"""What of a job is collected, as its results on disk say: they alone decide."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from aegis_workers.jobs.bitmap import Bitmap, ranges_of
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.gathering import Gathered
from aegis_workers.jobs.part import Content, Header, Part
from aegis_workers.jobs.parts import Parts
from aegis_workers.outcome import Status
from aegis_workers.state import job_totals
from aegis_workers.state.job_totals import Totals


class Ledger:
    """The leader's account of one job's parts, which it alone writes.

    `collected`: the number of the last outcome among the results; `done`: the chunks that are there; `items` and `totals` count
    what became complete. Of pieces it remembers where they are, and only those of items that are not complete.
    """

    def __init__(self, folder: JobFolder, token: int) -> None:
        self._folder = folder
        self._token = token
        self._parts = Parts(folder)
        self._pieces: defaultdict[int, list[tuple[Part, int]]] = defaultdict(list)
        self._complete = Bitmap(folder.manifest.items)
        self.collected = 0
        self.done = Bitmap(folder.manifest.chunks)
        self.items: Counter[Status] = Counter()
        self.totals = Totals()

    def take_over(self, collected: int | None) -> None:
        """Bring in order what a leader before left half done, and read what is collected; `collected` is what Redis says.

        Raises `SpoolUnavailable`.
        """
        committed = self._parts.settle(collected, self._token)
        with_pieces = []
        for named in committed:
            header = self._parts.header(named)
            self._count(named, header)
            if header.pieces:
                with_pieces.append(named)
        for named in with_pieces:
            self._remember_pieces(named)

    @property
    def first_missing(self) -> int:
        """The lowest chunk that has no outcome here; the number of all chunks where each has one."""
        return next((first for first, _ in self.done.missing()), self.done.size)

    def pieces_of(self, item: int) -> Sequence[bytes]:
        """The pieces of an item that is not complete. Raises `SpoolUnavailable`."""
        return [self._parts.piece(named, offset) for named, offset in self._pieces.get(item, ())]

    def write(self, gathered: Gathered) -> Part:
        """Write what was gathered as a part that is not one of the results yet.

        Raises `SpoolFull`, `SpoolUnavailable`, `Superseded`, and `FileExistsError` where this was done before.
        """
        named = Part(first=gathered.first, last=gathered.last, token=self._token)
        content = Content(
            chunks=ranges_of(gathered.chunks), lines=gathered.lines, pieces=gathered.pieces, totals=gathered.totals.fields()
        )
        self._parts.write(named, content)
        return named

    def publish(self, named: Part) -> None:
        """Make a part that Redis has agreed to one of the results. Raises `SpoolUnavailable` and `Superseded`."""
        self._parts.commit(named)
        header = self._parts.header(named)
        self._count(named, header)
        for item in [item for item in self._pieces if item in self._complete]:
            del self._pieces[item]
        if header.pieces:
            self._remember_pieces(named)

    def _count(self, named: Part, header: Header) -> None:
        self.collected = named.last
        for each in header.chunks:
            self.done.add(each)
        for each in header.items:
            self._complete.add(each)
        self.items.update({Status(status): count for status, count in header.counts.items()})
        self.totals += job_totals.from_fields(header.totals)

    def _remember_pieces(self, named: Part) -> None:
        for item, _, offset in self._parts.places(named):
            if item not in self._complete:
                self._pieces[item].append((named, offset))
