"""What of one job is fed next: its chunks in their order, less those that have an outcome, in batches."""

from collections import deque
from collections.abc import Iterable, Iterator

from aegis_workers.errors import SpoolUnavailable
from aegis_workers.jobs import batches
from aegis_workers.jobs.batches import Batch
from aegis_workers.jobs.bitmap import Bitmap, Range
from aegis_workers.jobs.folder import JobFolder

# Batches that are made ahead, of each job that is fed: up to 1 MB.
AHEAD = 4
_NOWHERE = -1


class Feeder:
    """Reads ahead in the job's folder. Whoever uses it lets no two threads do so at once."""

    def __init__(self, folder: JobFolder, *, max_chunks: int = batches.MAX_CHUNKS) -> None:
        self._folder = folder
        self._max_chunks = max_chunks
        self._ready: deque[Batch] = deque()
        self._rest: Iterator[Batch] = iter(())
        self._at = _NOWHERE
        self._exhausted = False

    def fill(self, fed: int, done: Bitmap) -> None:
        """Make batches ready from the chunk numbered `fed` on, skipping what is `done`. Raises `SpoolUnavailable`."""
        if fed != self._at:
            self._ready.clear()
            self._rest, self._at, self._exhausted = self._pack(done.missing(fed)), fed, False
        try:
            self._read_ahead()
        except SpoolUnavailable:  # an iterator that failed goes on for nobody
            self.rewind()
            raise

    def _read_ahead(self) -> None:
        while len(self._ready) < AHEAD and not self._exhausted:
            batch = next(self._rest, None)
            if batch is None:
                self._exhausted = True
            else:
                self._ready.append(batch)

    @property
    def needs_filling(self) -> bool:
        """Whether there may be more than `next` knows of."""
        return not self._ready and not self._exhausted

    @property
    def is_exhausted(self) -> bool:
        """Whether all was taken that there is from where it began."""
        return self._exhausted and not self._ready

    def is_at(self, fed: int) -> bool:
        """Whether the next batch is the one that follows what is fed."""
        return self._at == fed

    @property
    def next(self) -> Batch | None:
        """The next batch; None where nothing is left, or not yet read."""
        return self._ready[0] if self._ready else None

    def take(self) -> Batch:
        """The next batch, which is on its way from now on."""
        batch = self._ready.popleft()
        self._at = batch.after
        return batch

    def rewind(self) -> None:
        """What was taken last may not be on its way: the next filling begins where Redis says."""
        self._ready.clear()
        self._at = _NOWHERE

    def again(self, ranges: Iterable[Range]) -> list[Batch]:
        """Batches of these chunks, which were fed before. Raises `SpoolUnavailable`."""
        return list(self._pack(ranges))

    def _pack(self, ranges: Iterable[Range]) -> Iterator[Batch]:
        chunks = (chunk for first, last in ranges for chunk in self._folder.chunks(first, last))
        return batches.packed(map(batches.piece, chunks), max_chunks=self._max_chunks)
