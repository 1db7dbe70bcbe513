"""What of a job is made ready to feed: every chunk in order, less those that are done, wherever it begins."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from leading import spool_settings

from aegis_workers.errors import SpoolUnavailable
from aegis_workers.jobs import feeder, submission
from aegis_workers.jobs.bitmap import Bitmap
from aegis_workers.jobs.feeder import Feeder
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms
from aegis_workers.settings import Settings


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    """100 items of two chunks each."""
    settings = spool_settings(Settings(_env_file=None), tmp_path)
    items = [(f"doc-{number}", "Ada met Bo in the old town. " * 12) for number in range(100)]
    terms = Terms(options={"chunk_tokens": 50, "chunk_overlap_tokens": 0})
    return submission.write(Spool(tmp_path), Items(items=items), terms, settings).job


def taken(of: Feeder, fed: int, done: Bitmap) -> list[int]:
    """The chunks of all batches from `fed` on."""
    chunks: list[int] = []
    while True:
        of.fill(fed, done)
        if of.next is None:
            return chunks
        batch = of.take()
        chunks.extend(piece.chunk for piece in batch.pieces)
        fed = batch.after


def done(job: JobFolder, chunks: Iterable[int] = ()) -> Bitmap:
    found = Bitmap(job.manifest.chunks)
    for chunk in chunks:
        found.add(chunk)
    return found


def test_all_chunks_are_fed_in_their_order(job: JobFolder) -> None:
    assert taken(Feeder(job), 0, done(job)) == list(range(job.manifest.chunks))


def test_feeding_goes_on_from_any_chunk_also_in_the_middle_of_an_item(job: JobFolder) -> None:
    assert taken(Feeder(job, max_chunks=7), 33, done(job)) == list(range(33, job.manifest.chunks))


def test_chunks_that_are_done_are_passed_over(job: JobFolder) -> None:
    there = set(range(0, job.manifest.chunks, 3)) | set(range(40, 90))
    assert taken(Feeder(job), 0, done(job, there)) == [chunk for chunk in range(job.manifest.chunks) if chunk not in there]


def test_what_was_taken_and_may_not_be_on_its_way_is_taken_again(job: JobFolder) -> None:
    of = Feeder(job)
    of.fill(0, done(job))
    first = of.take()
    of.rewind()
    of.fill(0, done(job))
    assert of.take().ranges == first.ranges


def test_no_more_is_read_ahead_than_a_turn_takes(job: JobFolder) -> None:
    of = Feeder(job, max_chunks=1)
    of.fill(0, done(job))
    assert len(of._ready) == feeder.AHEAD


def test_reading_goes_on_after_a_failure_where_it_was(job: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    of = Feeder(job)

    def fails(*_: object) -> None:
        raise SpoolUnavailable("the disk is away")

    with monkeypatch.context() as patch:
        patch.setattr(JobFolder, "cut", fails)
        with pytest.raises(SpoolUnavailable):
            of.fill(0, done(job))
    assert taken(of, 0, done(job)) == list(range(job.manifest.chunks))
