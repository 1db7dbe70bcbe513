"""Reading results: in the order of collection or of input, from where one stopped, with what retries made better."""

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from submitted import content, job_of, named

from aegis_workers.errors import InvalidInput
from aegis_workers.jobs import results, submission
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.parts import Parts
from aegis_workers.jobs.results import Read
from aegis_workers.jobs.spool import Spool


def collect(job: JobFolder, items: list[int], *, status: str = "ok", word: str = "line") -> None:
    parts = Parts(job)
    part = named(parts.last() + 1, parts.last() + len(items))
    parts.write(part, content(items, status=status, word=word))
    parts.commit(part)


def retry(spool: Spool, parent: JobFolder, items: list[int]) -> JobFolder:
    return submission.retry(spool, parent, items).job


def shown(reads: Iterable[Read]) -> list[tuple[int, str, int]]:
    """Item, word and number within the line of the job that has it."""
    return [(read.item, word, number) for read in reads for word, number in json.loads(read.data).items()]


def test_lines_come_in_the_order_of_collection_or_of_the_input(tmp_path: Path) -> None:
    spool, job = Spool(tmp_path), job_of(tmp_path, ["x"] * 6)
    collect(job, [3, 1])
    collect(job, [0, 4, 2], status="failed")
    assert [(read.item, read.status) for read in results.lines(spool, job)] == [
        (3, "ok"), (1, "ok"), (0, "failed"), (4, "failed"), (2, "failed"),
    ]  # fmt: skip
    assert [(read.item, read.status) for read in results.ordered(spool, job)] == [
        (0, "failed"), (1, "ok"), (2, "failed"), (3, "ok"), (4, "failed"),
    ]  # fmt: skip
    assert [json.loads(read.data) for read in results.ordered(spool, job)] == [{"line": item} for item in range(5)]


def test_ordered_results_end_before_the_first_item_without_a_line(tmp_path: Path) -> None:
    spool, job = Spool(tmp_path), job_of(tmp_path, ["x"] * 4)
    assert list(results.ordered(spool, job)) == []
    collect(job, [0, 3])
    read = list(results.ordered(spool, job))
    assert [each.item for each in read] == [0]
    collect(job, [2, 1])
    assert [each.item for each in results.ordered(spool, job, read[-1].offset)] == [1, 2, 3]


@given(st.permutations(range(8)), st.lists(st.integers(0, 8), max_size=4), st.data())
@settings(max_examples=40)
def test_reading_goes_on_where_it_stopped_whatever_was_collected_meanwhile(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cuts: list[int], data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("spool")
    spool, job = Spool(root), job_of(root, ["x"] * 8)
    offset: str | None = None
    seen: list[int] = []
    bounds = [0, *sorted(cuts), 8]
    for first, last in pairwise(bounds):
        if first < last:
            collect(job, order[first:last])
        there = list(results.lines(spool, job, offset))
        for read in there[: data.draw(st.integers(0, len(there)))]:
            seen.append(read.item)
            offset = read.offset
    seen += [read.item for read in results.lines(spool, job, offset)]
    assert seen == order


def test_a_retry_replaces_a_line_once_it_has_one(tmp_path: Path) -> None:
    spool, job = Spool(tmp_path), job_of(tmp_path, ["x"] * 4)
    collect(job, [3, 2, 1, 0], status="failed")
    child = retry(spool, job, [1, 2, 3])
    assert len(list(results.lines(spool, job))) == 4
    collect(child, [2, 0], word="child")  # the items 3 and 1 of the parent
    assert shown(results.lines(spool, job)) == [(2, "line", 2), (0, "line", 0), (3, "child", 2), (1, "child", 0)]
    grandchild = retry(spool, child, [1, 2])  # 2 and 3
    collect(grandchild, [1], word="grandchild")
    newest = [(0, "line", 0), (1, "child", 0), (2, "line", 2), (3, "grandchild", 1)]
    assert sorted(shown(results.lines(spool, job))) == newest
    assert shown(results.ordered(spool, job)) == newest
    assert shown(results.lines(spool, child)) == [(0, "child", 0), (2, "grandchild", 1)]


def test_whoever_has_read_a_line_reads_the_retrys_after_it(tmp_path: Path) -> None:
    spool, job = Spool(tmp_path), job_of(tmp_path, ["x"] * 3)
    collect(job, [0, 1], status="failed")
    *_, last = results.lines(spool, job)
    child = retry(spool, job, [0, 1])
    collect(child, [1], word="child")
    first_of_child = next(results.lines(spool, job, last.offset))
    collect(job, [2])
    collect(child, [0], word="child")
    assert shown([first_of_child]) == [(1, "child", 1)]
    assert sorted(shown(results.lines(spool, job, first_of_child.offset))) == [(0, "child", 0), (2, "line", 2)]


def test_a_retry_that_was_deleted_replaces_nothing(tmp_path: Path) -> None:
    spool, job = Spool(tmp_path), job_of(tmp_path, ["x"])
    collect(job, [0], status="failed")
    child = retry(spool, job, [0])
    collect(child, [0], word="child")
    spool.delete(child.id)
    assert shown(results.lines(spool, job)) == [(0, "line", 0)]


@pytest.mark.parametrize("offset", ["x", "1:3", "7:5", "1:0,job_000000000000000000000000=1:0", "item:2", "1:", "1:9999"])
def test_an_offset_that_is_none_of_the_jobs_is_refused(tmp_path: Path, offset: str) -> None:
    spool, job = Spool(tmp_path), job_of(tmp_path, ["x"] * 2)
    collect(job, [0, 1])
    with pytest.raises(InvalidInput, match="the offset is none that reading the results"):
        list(results.lines(spool, job, offset))


@pytest.mark.parametrize("offset", ["1:0", "item:3", "item:-1"])
def test_an_offset_of_another_order_is_refused(tmp_path: Path, offset: str) -> None:
    spool, job = Spool(tmp_path), job_of(tmp_path, ["x"] * 2)
    with pytest.raises(InvalidInput, match="the offset is none that reading the results"):
        list(results.ordered(spool, job, offset))


def test_more_parts_than_files_may_be_open_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_OPEN_FILES", 2)
    spool, job = Spool(tmp_path), job_of(tmp_path, ["x"] * 9)
    for first in range(3):
        collect(job, [first, first + 3, first + 6])
    assert [read.item for read in results.ordered(spool, job)] == list(range(9))
