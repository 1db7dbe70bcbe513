"""Parts of results: whatever dies at whichever step, every line is there once."""

import errno
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from dying import dies_at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from submitted import content, job_of, named

from aegis_workers.errors import SpoolFull, SpoolUnavailable
from aegis_workers.jobs import disk
from aegis_workers.jobs.bitmap import Bitmap
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.part import Part, Piece
from aegis_workers.jobs.parts import Parts, Superseded

ITEMS = 40
# The token of whoever brings the folder in order: higher than that of any part here.
LATER = 1_000_000


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    return job_of(tmp_path, ["x"] * ITEMS)


@pytest.fixture
def parts(job: JobFolder) -> Parts:
    return Parts(job)


def put(parts: Parts, part: Part, items: Sequence[int], **more: Any) -> None:
    parts.write(part, content(items, **more))
    parts.commit(part)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def collected(job: JobFolder) -> list[int]:
    """The items of all result lines, as the files have them."""
    parts = Parts(job)
    lines = [line for part in parts.committed() for line in parts.path(part).read_text().splitlines()]
    items = [json.loads(line)["line"] for line in lines]
    assert items == [item for part in parts.committed() for item, _, _ in parts.lines(part)]
    assert Counter(items) == Counter({item: 1 for first, last in parts.complete().ranges() for item in range(first, last + 1)})
    return items


def test_a_part_has_its_lines_its_pieces_and_where_they_are(job: JobFolder, parts: Parts) -> None:
    pieces = [Piece(item=9, chunk=11, data=b'{"index":1}'), Piece(item=8, chunk=10, data=b'{"index":0}')]
    parts.write(named(1, 5), content([3, 1, 2], pieces=pieces))
    assert files(job.incoming) == {f"000000000001-000000000005-7{suffix}" for suffix in (".jsonl", ".idx", ".pieces")}
    assert (parts.committed(), parts.last()) == ([], 0)
    parts.commit(named(1, 5))
    assert files(job.incoming) == set()
    assert (parts.committed(), parts.last()) == ([named(1, 5)], 5)
    header = parts.header(named(1, 5))
    assert (header.chunks, header.items, header.counts) == (((1, 3), (10, 11)), ((1, 3),), {"ok": 3})
    assert (header.totals, header.size_bytes, header.pieces) == ({"calls": 5}, 33, 2)
    assert parts.lines(named(1, 5)) == [(3, 0, "ok"), (1, 11, "ok"), (2, 22, "ok")]
    assert parts.path(named(1, 5)).read_bytes() == b'{"line":3}\n{"line":1}\n{"line":2}\n'
    assert list(parts.pieces(Bitmap.of(ITEMS, [(8, 8)]))) == [(9, 11, b'{"index":1}')]


def test_what_a_job_is_put_together_from_again(job: JobFolder, parts: Parts) -> None:
    put(parts, named(1, 2), [0, 1])
    put(parts, named(3, 5), [4, 5], status="failed", pieces=[Piece(item=7, chunk=9, data=b"{}")])
    assert list(parts.done().ranges()) == [(0, 1), (4, 5), (9, 9)]
    assert list(parts.complete().ranges()) == [(0, 1), (4, 5)]
    tally = Parts(job).tally()
    assert (tally.counts, tally.totals) == ({"ok": 2, "failed": 2}, {"calls": 5})


def test_a_part_without_pieces_has_no_file_for_them(job: JobFolder, parts: Parts) -> None:
    put(parts, named(1, 1), [0])
    assert {Path(name).suffix for name in files(job.results)} == {".jsonl", ".idx"}


def test_a_part_is_written_once(job: JobFolder, parts: Parts) -> None:
    parts.write(named(1, 1), content([0]))
    with pytest.raises(FileExistsError):
        parts.write(named(1, 1), content([1]))
    parts.commit(named(1, 1))
    parts.commit(named(1, 1))
    assert collected(job) == [0]


def test_a_missing_part_is_not_passed_over(parts: Parts) -> None:
    for part, item in ((named(1, 1), 0), (named(2, 2), 1), (named(3, 3), 2)):
        put(parts, part, [item])
    parts.path(named(2, 2)).unlink()
    with pytest.raises(SpoolUnavailable, match="lacks outcome 2: restore it from a backup"):
        parts.committed()


def test_a_disk_that_is_full_leaves_no_trace_of_the_part(job: JobFolder, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    for fails_at in range(3):
        steps = iter(range(10))

        def write_new(path: Path, data: bytes, *, fails_at: int = fails_at, steps: Any = steps) -> None:
            path.write_bytes(data[: len(data) // 2])
            if next(steps) == fails_at:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(disk, "write_new", write_new)
        with pytest.raises(SpoolFull, match="make room on its file system"):
            parts.write(named(1, 2), content([0], pieces=[Piece(item=1, chunk=1, data=b"{}")]))
        assert files(job.incoming) == set()
    monkeypatch.undo()
    put(parts, named(1, 1), [0])
    assert collected(job) == [0]


def test_a_leader_whose_part_was_removed_learns_that_it_leads_no_more(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.write(named(1, 1), content([0]))
    parts.settle(0, LATER)
    with pytest.raises(Superseded):
        parts.commit(named(1, 1))

    def write_new(path: Path, data: bytes) -> None:
        path.write_bytes(data)
        if path.name.endswith(".jsonl.tmp"):
            parts.settle(0, LATER)

    monkeypatch.setattr(disk, "write_new", write_new)
    with pytest.raises(Superseded):
        parts.write(named(1, 1, 8), content([0]))


def test_what_redis_says_is_collected_becomes_results_and_the_rest_goes(job: JobFolder, parts: Parts) -> None:
    put(parts, named(1, 2), [0, 1])
    for part, items in ((named(3, 4), [2, 3]), (named(5, 5), [4]), (named(6, 9), [5, 6, 7, 8])):
        parts.write(part, content(items))
    (job.incoming / "000000000010-000000000011-7.jsonl.tmp").write_bytes(b'{"li')
    assert Parts(job).settle(5, LATER) == [named(1, 2), named(3, 4), named(5, 5)]
    assert collected(job) == [0, 1, 2, 3, 4]
    assert files(job.incoming) == set()


def test_of_two_leaders_parts_the_later_ones_is_the_one_that_redis_took(job: JobFolder, parts: Parts) -> None:
    parts.write(named(1, 3, token=5), content([9, 8, 7]))
    parts.write(named(1, 2, token=6), content([0, 1]))
    parts.write(named(2, 2, token=5), content([6]))
    assert parts.settle(3, LATER) == [named(1, 2, token=6)]
    assert collected(job) == [0, 1]


def test_after_a_wipe_whole_parts_are_kept_unless_they_repeat_a_chunk(job: JobFolder, parts: Parts) -> None:
    put(parts, named(1, 2), [0, 1])
    parts.write(named(3, 4), content([2, 3]))
    parts.write(named(5, 6), content([3, 4]))
    assert parts.settle(None, LATER) == [named(1, 2), named(3, 4)]
    assert collected(job) == [0, 1, 2, 3]
    parts.write(named(5, 5), content([4]))
    (job.incoming / "000000000005-000000000005-7.idx").unlink()
    assert parts.settle(None, LATER) == [named(1, 2), named(3, 4)]


def test_what_a_power_cut_left_in_the_wrong_folder_is_put_in_its_place(job: JobFolder, parts: Parts) -> None:
    put(parts, named(1, 2), [0], pieces=[Piece(item=1, chunk=1, data=b"{}")])
    for suffix in (".idx", ".pieces"):
        name = f"{named(1, 2).stem}{suffix}"
        (job.results / name).rename(job.incoming / name)
        (job.results / f"{named(3, 4).stem}{suffix}").write_bytes(b"")
    parts.settle(2, LATER)
    assert collected(job) == [0]
    assert list(parts.pieces(parts.complete())) == [(1, 1, b"{}")]
    assert {Path(name).stem for name in files(job.results)} == {named(1, 2).stem}


@pytest.mark.parametrize("committed", [True, False])
def test_a_death_at_any_step_of_a_part_neither_loses_nor_doubles_it(tmp_path: Path, *, committed: bool) -> None:
    """Before Redis has said yes, the part goes and is written again by the next leader; after, it stays."""
    pieces = [Piece(item=30, chunk=30, data=b"{}")]
    for step in range(100):
        job = job_of(tmp_path, ["x"] * ITEMS)
        parts = Parts(job)
        put(parts, named(1, 1), [0])
        if committed:
            parts.write(named(2, 4), content([1, 2], pieces=pieces))
            died = dies_at(step, lambda: parts.commit(named(2, 4)))  # noqa: B023 - called at once
        else:
            died = dies_at(step, lambda: parts.write(named(2, 4), content([1, 2], pieces=pieces)))  # noqa: B023
        assert collected(job) in ([0], [0, 1, 2])  # whoever reads meanwhile never finds a part without its index
        again = dies_at(step, lambda: parts.settle(4 if committed else 1, LATER))  # noqa: B023 - the next leader may die as well
        parts.settle(4 if committed else 1, LATER)
        assert collected(job) == ([0, 1, 2] if committed else [0])
        assert files(job.incoming) == set()
        assert {Part.parse(Path(name).stem) for name in files(job.results)} == set(parts.committed())
        if not committed:
            put(parts, named(2, 4, token=8), [1, 2], pieces=pieces)
        assert collected(job) == [0, 1, 2]
        assert list(parts.pieces(parts.complete())) == [(30, 30, b"{}")]
        if not died and not again:
            return
    raise AssertionError("it never ended")


@dataclass
class World:
    """Redis as the collector sees it, and leaders that die: each chunk is recorded once, and must be collected once."""

    job: JobFolder
    token: int = 1
    recorded: list[int] = field(default_factory=list)  # outcome n is of the chunk recorded[n - 1]
    collected: int = 0

    def record(self, count: int) -> None:
        missing = [chunk for chunk in range(ITEMS) if chunk not in self.recorded]
        self.recorded += missing[:count]

    def collect(self, count: int, step: int, *, late: bool = False) -> None:
        """The leader writes a part, Redis is told, the part is moved; the leader dies at some step. `late`: it leads no more."""
        first, last = self.collected + 1, min(self.collected + count, len(self.recorded))
        if last < first:
            return
        part, parts = Part(first=first, last=last, token=self.token - late), Parts(self.job)
        if (self.job.incoming / f"{part.stem}.jsonl").exists():  # the same late leader, twice
            return
        died = dies_at(step, lambda: parts.write(part, content(self.recorded[first - 1 : last])))
        if died or late:
            self.take_over(step) if not late else None
            return
        self.collected = last
        if dies_at(step, lambda: parts.commit(part)):
            self.take_over(step)

    def take_over(self, step: int) -> None:
        """The next leader, which may die at it, and the one after."""
        self.token += 1
        parts, collected = Parts(self.job), self.collected
        dies_at(step // 2, lambda: parts.settle(collected, LATER))
        parts.settle(collected, LATER)

    def forget(self, step: int) -> None:
        """Redis is wiped: what is on the disk counts, and the chunks that are not there are called again."""
        self.token += 1
        parts = Parts(self.job)
        dies_at(step, lambda: parts.settle(None, LATER))
        parts.settle(None, LATER)
        self.recorded = [chunk for part in parts.committed() for chunk, _, _ in parts.lines(part)]
        self.collected = parts.last()
        assert len(self.recorded) == self.collected


steps = st.integers(0, 14)
counts = st.integers(1, 8)
operations = st.one_of(
    st.tuples(st.just("record"), counts),
    st.tuples(st.just("collect"), counts, steps),
    st.tuples(st.just("late"), counts, steps),
    st.tuples(st.just("take over"), steps),
    st.tuples(st.just("forget"), steps),
)


@given(st.lists(operations, max_size=10))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_leaders_and_redis_do_each_item_has_one_line(
    tmp_path_factory: pytest.TempPathFactory, done: Sequence[tuple[Any, ...]]
) -> None:
    world = World(job_of(tmp_path_factory.mktemp("spool"), ["x"] * ITEMS))
    for name, *arguments in [("record", 5), *done]:
        match name:
            case "record":
                world.record(*arguments)
            case "collect":
                world.collect(*arguments)
            case "late":
                world.collect(*arguments, late=True)
            case "take over":
                world.take_over(*arguments)
            case "forget":
                world.forget(*arguments)
        assert sorted(collected(world.job)) == sorted(set(collected(world.job)))
    world.record(ITEMS)
    world.take_over(100)
    world.collect(ITEMS, 100)
    assert sorted(collected(world.job)) == list(range(ITEMS))
    assert len(Parts(world.job).done()) == ITEMS


def test_a_leader_that_thaws_while_it_tidies_leaves_the_parts_of_a_later_one_alone(
    job: JobFolder, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(parts, named(1, 2, token=8), [1, 2])
    parts.write(named(3, 4, token=8), content([3, 4]))
    there = files(job.results) | files(job.incoming)
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "committed", lambda _: [])  # as it was when the earlier leader looked
        Parts(job).settle(None, 7)
    assert files(job.results) | files(job.incoming) == there
    assert parts.settle(4, 8) == [named(1, 2, token=8), named(3, 4, token=8)]
