"""What outcomes come to: lines, pieces, and what is dropped."""

import json
from pathlib import Path
from typing import Any

import pytest
from leading import spool_settings

from aegis_workers.jobs import submission
from aegis_workers.jobs.bitmap import Bitmap
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.gathering import Gatherer
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms
from aegis_workers.outcome import Status
from aegis_workers.settings import Settings
from aegis_workers.state.job_outcomes import Kind, Recorded
from aegis_workers.state.job_totals import Totals

SETTINGS = Settings(_env_file=None)


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    """Items of one, three and one chunk."""
    texts = [("a", "Ada met Bo."), ("b", "Ada met Bo in the old town. " * 18), ("c", "Bo met Ada.")]
    terms = Terms(options={"chunk_tokens": 50, "chunk_overlap_tokens": 0})
    made = submission.write(Spool(tmp_path), Items(items=texts), terms, spool_settings(SETTINGS, tmp_path)).job
    assert [len(made.index.chunks_of(item)) for item in range(3)] == [1, 3, 1]
    return made


def outcome(number: int, chunk: int, kind: Kind = Kind.LINE, index: int = 0, status: Status = Status.OK) -> Recorded:
    data: Any = {"entities": [], "relations": []} if status is Status.OK else None
    error = None if status is Status.OK else {"class": "item-fatal", "message": "HTTP 404"}
    body: dict[str, Any] = {
        "index": index,
        "status": status.value,
        "data": data,
        "error": error,
        "engine": "vllm",
        "mode": "auto",
        "reason": "",
    }
    body |= {"attempts": 1, "usage": {"prompt_tokens": 1, "completion_tokens": 1}, "engine_s": 0.1}
    return Recorded(
        number=number,
        entry_id=f"{number}-0",
        chunk=chunk,
        kind=kind,
        status=status,
        body=json.dumps(body).encode(),
        totals=Totals(attempts=1),
        size_bytes=10,
    )


def piece(number: int, chunk: int) -> Recorded:
    """The outcome of a chunk of the second item."""
    return outcome(number, chunk, Kind.PIECE, chunk - 1)


def nothing_earlier(_: int) -> list[bytes]:
    return []


def test_a_line_stays_as_it_came_and_pieces_wait_for_the_last_one(job: JobFolder) -> None:
    found = Gatherer(job, nothing_earlier, SETTINGS).gather([outcome(1, 4), piece(2, 3), piece(3, 1)], Bitmap(5))
    assert [(line.item, line.data) for line in found.lines] == [(2, outcome(1, 4).body)]
    assert sorted((piece.item, piece.chunk) for piece in found.pieces) == [(1, 1), (1, 3)]
    assert (found.first, found.last, found.size_bytes, found.totals.attempts) == (1, 3, 30, 3)


def test_the_last_piece_makes_the_line_with_those_that_came_before(job: JobFolder) -> None:
    done = Bitmap.of(5, [(1, 1), (3, 3)])
    earlier = [piece(2, 3).body, piece(3, 1).body]
    found = Gatherer(job, lambda _: earlier, SETTINGS).gather([piece(4, 2)], done)
    line = json.loads(found.lines[0].data)
    assert (line["custom_id"], line["attempts"], len(line["calls"]), found.pieces) == ("b", 3, 3, [])


def test_a_second_outcome_of_a_chunk_is_dropped_and_counted_but_for_its_bytes(job: JobFolder) -> None:
    found = Gatherer(job, nothing_earlier, SETTINGS).gather([outcome(1, 0), outcome(2, 4), outcome(3, 4)], Bitmap.of(5, [(0, 0)]))
    assert [line.item for line in found.lines] == [2]
    assert (found.doubled, found.chunks, found.last, found.size_bytes, found.totals.attempts) == (2, {4}, 3, 30, 1)


def test_what_is_broken_off_has_one_last_line_each(job: JobFolder) -> None:
    done = Bitmap.of(5, [(0, 0), (2, 2)])
    gatherer = Gatherer(job, lambda item: [piece(2, 2).body] if item == 1 else [], SETTINGS)
    found = gatherer.break_off(8, Status.CANCELLED, "it was cancelled", done)
    assert found is not None
    assert [(line.item, line.status) for line in found.lines] == [(1, "partial"), (2, "cancelled")]
    assert (found.first, found.last, found.chunks) == (8, 10, {1, 3, 4})
    assert [call["status"] for call in json.loads(found.lines[0].data)["calls"]] == ["cancelled", "ok", "cancelled"]
    for first, last in [(1, 1), (3, 3), (4, 4)]:
        done.add((first, last))
    assert gatherer.break_off(11, Status.CANCELLED, "it was cancelled", done) is None


def test_how_failed_items_ended_is_told_by_class_and_words(job: JobFolder) -> None:
    found = Gatherer(job, nothing_earlier, SETTINGS).gather([outcome(1, 0, status=Status.FAILED)], Bitmap(5))
    assert [ending.error for ending in found.endings] == ["item-fatal: HTTP 404"]
