"""A job is submitted whole or not at all, whatever happens meanwhile."""

import errno
import hashlib
import json
import multiprocessing
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dying import dies_at
from hypothesis import given
from hypothesis import strategies as st
from submitted import SETTINGS, everything, job_of, submit

from aegis_workers.errors import InvalidInput, SpoolFull, SpoolUnavailable, UnknownJob
from aegis_workers.extraction import chunking
from aegis_workers.jobs import disk, ids, submission
from aegis_workers.jobs.ids import Ids
from aegis_workers.jobs.journal import Event, State
from aegis_workers.jobs.manifest import EnginePolicy, Kind, Manifest
from aegis_workers.jobs.sources import JsonLines
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Submitted, Terms

LONG = "Ada Stone founded Riverton Glass. " * 30
REQUEST = {"url": "/v1/chat/completions", "method": "POST", "body": {"messages": [{"role": "user", "content": "Hi"}]}}


def test_a_job_says_what_it_was_submitted_with(tmp_path: Path) -> None:
    terms = {"options": {"seed": 5}, "metadata": {"team": "x"}, "key": "k", "policy": EnginePolicy.PER_JOB, "expires_s": 60}
    submitted = submit(tmp_path, ["one", LONG], **terms)
    manifest = submitted.job.manifest
    assert submitted.is_new
    assert (manifest.kind, manifest.items, manifest.chunks) == (Kind.EXTRACTION, 2, 1 + submitted.job.item(1).chunks)
    assert (manifest.key, manifest.metadata, manifest.policy, manifest.retry_of) == ("k", {"team": "x"}, "per-job", None)
    assert manifest.options is not None
    assert manifest.options.seed == 5
    assert manifest.expires_at - manifest.created_at == 60
    assert (manifest.chunk_tokens, manifest.chunk_overlap_tokens) == (50, 10)
    assert Manifest.from_json((submitted.job.path / "manifest.json").read_bytes()) == manifest
    assert [(entry.event, entry.state) for entry in submitted.job.journal.entries()] == [(Event.SUBMITTED, State.IN_PROGRESS)]
    assert stat.S_IMODE(submitted.job.path.stat().st_mode) == 0o700


def test_ids_sort_by_time(tmp_path: Path) -> None:
    made = [job_of(tmp_path, ["x"]).id for _ in range(3)]
    assert Spool(tmp_path).ids() == sorted(made)
    assert len(set(made)) == 3


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.data())
def test_items_and_chunks_are_found_by_their_numbers(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    texts = [f"Text {number}. " + "Ada Stone founded Riverton Glass. " * size for number, size in enumerate(sizes)]
    job = job_of(tmp_path_factory.mktemp("spool"), texts)
    cut = [chunking.split(text, max_tokens=50, overlap_tokens=10) for text in texts]
    spans = [(item, span) for item, each in enumerate(cut) for span in each]

    assert [item.text for item in job.items()] == texts
    assert job.manifest.chunks == len(spans)
    first = data.draw(st.integers(0, len(spans) - 1))
    last = data.draw(st.integers(first, len(spans) - 1))
    found = list(job.chunks(first, last))
    assert [(chunk.number, chunk.item.number, chunk.span) for chunk in found] == [
        (number, *spans[number]) for number in range(first, last + 1)
    ]
    item = data.draw(st.integers(0, len(texts) - 1))
    assert job.item(item) == next(job.items(item, item))
    assert job.index.chunks_of(item) == range(sum(map(len, cut[:item])), sum(map(len, cut[: item + 1])))


def test_a_chunk_travels_with_what_its_call_needs(tmp_path: Path) -> None:
    job = job_of(tmp_path, [{"custom_id": "a", "text": LONG, "metadata": {"p": 1}}, ("b", "short")])
    messages = [chunk.to_message() for chunk in job.chunks()]
    assert [message["n"] for message in messages] == list(range(job.manifest.chunks))
    first, last = messages[0], messages[-1]
    assert first["text"] == LONG[first["start"] : first["end"]]
    assert (first["item"], first["of"], first["index"], first["custom_id"], first["metadata"]) == (0, 8, 0, "a", {"p": 1})
    assert (last["item"], last["of"], last["text"], "metadata" in last) == (1, 1, "short", False)
    assert json.loads(json.dumps(messages)) == messages


def test_a_request_is_one_chunk_without_a_span(tmp_path: Path) -> None:
    job = job_of(tmp_path, [{"custom_id": str(number), **REQUEST} for number in range(2)])
    assert (job.manifest.kind, job.manifest.options, job.manifest.endpoint) == ("completions", None, "/v1/chat/completions")
    assert [chunk.to_message() for chunk in job.chunks(1)] == [
        {"n": 1, "item": 1, "of": 1, "custom_id": "1", "body": REQUEST["body"]}
    ]


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"schema": {"type": "thing"}}, "schema"),
        ({"options": {"deadline_s": 5}}, "options.deadline_s: not for jobs"),
        ({"options": {"sede": 5}}, "options.sede: not known"),
        ({"key": ""}, "a key has 1 to 512 characters"),
        ({"metadata": {str(n): "" for n in range(17)}}, "at most 16 keys"),
        ({"metadata": {"k" * 65: ""}}, "a key has 1 to 64 characters, a value up to 512"),
        ({"metadata": {"k": 5}}, "keys and values must be strings"),
        ({"expires_s": 0}, "a job expires after more than 0"),
        ({"expires_s": float("nan")}, "a job expires after more than 0"),
        ({"stop_share": 2}, "from 0 to 1"),
    ],
)
def test_terms_that_cannot_be_are_refused_before_anything_is_read(tmp_path: Path, terms: dict[str, Any], words: str) -> None:
    def items() -> Iterator[str]:
        raise AssertionError
        yield ""

    with pytest.raises(InvalidInput) as refused:
        submit(tmp_path, items(), **terms)
    assert words in str(refused.value)
    assert everything(tmp_path) == set()


@pytest.mark.parametrize("terms", [{"schema": {"type": "object"}}, {"options": {"seed": 1}}])
def test_requests_take_no_schema_and_no_options(tmp_path: Path, terms: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="schema and options are for texts"):
        submit(tmp_path, [{"custom_id": "a", **REQUEST}], **terms)
    assert everything(tmp_path) == set()


def test_every_wrong_line_is_named_up_to_20_and_the_rest_are_counted(tmp_path: Path) -> None:
    items = ["fine", *[""] * 25, {"custom_id": "a", "text": "x"}, {"custom_id": "a", "text": "y"}]
    with pytest.raises(InvalidInput) as refused:
        submit(tmp_path, items)
    lines = str(refused.value).splitlines()
    assert lines[0] == "nothing was submitted"
    assert lines[1:21] == [f"items[{n}]: text is empty or blank: there is nothing to extract from" for n in range(1, 21)]
    assert lines[21:] == ["and 6 more"]
    assert everything(tmp_path) == set()


def test_what_is_wrong_for_ever_is_not_read_for_ever(tmp_path: Path) -> None:
    def items() -> Iterator[str]:
        while True:
            yield ""

    with pytest.raises(InvalidInput, match="and at least 980 more"):
        submit(tmp_path, items())


def test_an_id_that_is_there_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    names = ["a", "b", "c", "b", "b"]
    path.write_text("".join(json.dumps({"custom_id": name, "text": "x"}) + "\n" for name in names))
    source = JsonLines([str(path)], stdin=None, max_text_bytes=1000)
    with pytest.raises(InvalidInput) as refused:
        submission.write(Spool(tmp_path), source, Terms(), SETTINGS)
    assert str(refused.value).splitlines()[1:] == [
        "line 4: custom_id is that of line 2 too: each must be unique",
        "line 5: custom_id is that of line 2 too: each must be unique",
    ]


def test_ids_that_share_a_hash_refuse_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "hash", len, raising=False)
    assert job_of(tmp_path, ["x"] * 30).manifest.items == 30
    with pytest.raises(InvalidInput, match=r"items\[2\]: custom_id is that of items\[0\] too"):
        job_of(tmp_path, [("a", "x"), ("b", "x"), ("a", "x")])


def test_an_id_takes_at_most_16_bytes() -> None:
    seen = Ids()
    for number in range(100_000):
        seen.add(f"doc-{number}")
    assert sum(sys.getsizeof(partition) for partition in seen._partitions) <= 16 * 100_000
    assert seen.suspects() == frozenset()


def test_nothing_to_submit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nothing was submitted: the input has no items"):
        submit(tmp_path, [])
    assert everything(tmp_path) == set()


def test_an_error_of_the_source_is_its_callers_and_leaves_nothing(tmp_path: Path) -> None:
    def items() -> Iterator[str]:
        yield "one"
        raise FileNotFoundError("theirs")

    with pytest.raises(FileNotFoundError, match="theirs"):
        submit(tmp_path, items())
    assert everything(tmp_path) == set()


@pytest.mark.parametrize("method", ["write", "flush"])
def test_a_full_disk_is_said_to_be_that_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """`/dev/full` takes nothing: small jobs meet it when their buffer is written out, large ones before."""

    def open_full(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.suffix == ".jsonl" and arguments and arguments[0] == "xb":
            return opened(Path("/dev/full"), "wb", *arguments[1:], **options)
        return opened(path, *arguments, **options)

    opened = Path.open
    monkeypatch.setattr(Path, "open", open_full)
    texts = ("x" * 50_000 for _ in range(100 if method == "write" else 1))
    with pytest.raises(SpoolFull, match=r"takes nothing in \(No space left on device\): make room"):
        submit(tmp_path, texts)
    assert everything(tmp_path) == set()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolUnavailable, match=r"file cannot be used \(Not a directory\): see that AEGIS_DATA_DIR"):
        submit(tmp_path / "file", ["x"])
    assert disk.failure(OSError(errno.EDQUOT, "Disk quota exceeded"), tmp_path).__class__ is SpoolFull


def test_a_key_stands_for_its_first_job(tmp_path: Path) -> None:
    first = submit(tmp_path, ["one"], key="k")
    again = submit(tmp_path, ["two", "three"], key="k")
    other = submit(tmp_path, ["two"], key="l")
    assert (first.is_new, again.is_new, other.is_new) == (True, False, True)
    assert again.job.id == first.job.id != other.job.id
    assert Spool(tmp_path).ids() == sorted([first.job.id, other.job.id])


def test_a_key_is_free_again_when_its_job_was_refused_or_deleted(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        submit(tmp_path, [""], key="k")
    first = submit(tmp_path, ["one"], key="k")
    Spool(tmp_path).delete(first.job.id)
    assert not any((tmp_path / "keys").iterdir())
    again = submit(tmp_path, ["one"], key="k")
    assert again.is_new
    assert again.job.id != first.job.id


def keyed(root: str, name: str, begun: Any, go_on: Any, told: Any) -> None:
    def items() -> Iterator[str]:
        begun.set()
        go_on.wait()
        yield name

    submitted = submit(Path(root), items(), key="k")
    told.put((submitted.job.id, submitted.is_new))


def test_two_processes_with_one_key_make_one_job(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begun, go_on, told = [context.Event(), context.Event()], context.Event(), context.Queue()
    processes = [
        context.Process(target=keyed, args=(str(tmp_path), str(number), begun[number], go_on, told), daemon=True)
        for number in range(2)
    ]
    processes[0].start()
    assert begun[0].wait(30)
    processes[1].start()
    assert not begun[1].wait(0.3)  # it waits for the first, and has read nothing
    go_on.set()
    answers = [told.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(30)
    assert not begun[1].is_set()
    assert {job_id for job_id, _ in answers} == set(Spool(tmp_path).ids())
    assert sorted(is_new for _, is_new in answers) == [False, True]


def test_a_death_at_any_step_leaves_a_whole_job_or_none_and_the_key_makes_it_one(tmp_path: Path) -> None:
    for step in range(1000):
        root = tmp_path / str(step)
        died = dies_at(step, lambda: submit(root, ["one", LONG], key="k"))  # noqa: B023 - called at once
        spool = Spool(root)
        for job_id in spool.ids():
            assert len(list(spool.open(job_id).chunks())) == 9
            assert spool.open(job_id).journal.last().state is State.IN_PROGRESS
        again = submit(root, ["one", LONG], key="k")
        assert spool.ids() == [again.job.id]
        spool.sweep()
        assert sorted(path.name for path in (root / "jobs").iterdir()) == [again.job.id]
        if not died:
            assert step > 15
            return
    raise AssertionError("it never ended")


def test_everything_of_a_job_is_on_the_disk_before_its_id_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append(re.sub(r"\.new-|^\.(?=0)|-[0-9a-f]{32}\.tmp$", "", str(path.relative_to(tmp_path)).replace("/.0", "/0")))

    monkeypatch.setattr(os, "fsync", fsync)
    first = submit(tmp_path, ["one"]).job
    folder = f"jobs/{first.id}"
    files = {"manifest.json", "items.jsonl", "index.bin", "journal/000001", "journal"}
    assert set(synced) == {"jobs", folder, *(f"{folder}/{name}" for name in files)}
    assert synced[-2:] == [folder, "jobs"]
    synced.clear()
    submission.retry(Spool(tmp_path), first, [0], key="k")
    assert {path.rpartition("/")[2] for path in synced} >= {"parents.bin", "children", hashlib.sha256(b"k").hexdigest(), "keys"}


def test_who_waits_for_a_key_whose_file_is_deleted_meanwhile_waits_for_the_new_file(tmp_path: Path) -> None:
    first = submit(tmp_path, ["one"], key="k")
    told: list[Submitted] = []
    with Spool(tmp_path).key("k"):
        thread = threading.Thread(target=lambda: told.append(submit(tmp_path, ["two"], key="k")))
        thread.start()
        [path] = (tmp_path / "keys").iterdir()
        assert eventually_waits_for(path)
        path.unlink()
        Spool(tmp_path).delete(first.job.id)
        with Spool(tmp_path).key("k") as fresh:  # the file that counts from now on
            fresh.write(first.job.id)
    thread.join()
    assert told[0].is_new
    assert submit(tmp_path, ["three"], key="k").job.id == told[0].job.id


def eventually_waits_for(path: Path) -> bool:
    """Whether somebody comes to wait for the lock of this file."""
    inode = f":{path.stat().st_ino} "
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()):
            return True
        time.sleep(0.01)
    return False


def test_what_a_killed_submission_left_is_swept_and_a_running_one_is_not(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.sweep() == []
    assert dies_at(8, lambda: submit(tmp_path, ["one"]))
    [left] = (tmp_path / "jobs").iterdir()
    begun, go_on = threading.Event(), threading.Event()

    def items() -> Iterator[str]:
        begun.set()
        go_on.wait()
        yield "x"

    thread = threading.Thread(target=submit, args=(tmp_path, items()))
    thread.start()
    assert begun.wait(30)
    swept = spool.sweep()
    go_on.set()
    thread.join()
    assert swept == [left.name]
    assert len(spool.ids()) == 1


def test_a_deletion_that_died_is_no_job_and_is_swept(tmp_path: Path) -> None:
    for step in range(1000):
        root = tmp_path / str(step)
        job = submit(root, ["one"], key="k").job
        spool = Spool(root)
        died = dies_at(step, lambda: spool.delete(job.id))  # noqa: B023 - called at once
        if spool.ids():
            assert len(list(spool.open(job.id).chunks())) == 1
        else:
            spool.sweep()
            assert not any((root / "jobs").iterdir())
            assert submit(root, ["two"], key="k").is_new
        if not died:
            return
    raise AssertionError("it never ended")


def test_a_job_that_is_not_there_is_unknown(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for job_id in ("job_" + "0" * 24, "../jobs", "zanzibar"):
        with pytest.raises(UnknownJob) as unknown:
            spool.open(job_id)
        assert "zanzibar" not in str(unknown.value)
    assert spool.ids() == []


def test_damaged_files_are_said_to_be_that(tmp_path: Path) -> None:
    for name, data in (("manifest.json", b"{}"), ("index.bin", b""), ("index.bin", bytes(64)), ("items.jsonl", b"{}\n")):
        job = job_of(tmp_path, ["one"])
        (job.path / name).write_bytes(data)
        with pytest.raises(SpoolUnavailable, match=f"{name} is damaged: restore it from a backup, or delete the job"):
            list(Spool(tmp_path).open(job.id).chunks())


def test_a_retry_has_the_items_of_its_parent_and_knows_them(tmp_path: Path) -> None:
    parent = submit(tmp_path, [("a", "x"), ("b", LONG), ("c", "y")], metadata={"m": "1"}, key="k").job
    child = submission.retry(Spool(tmp_path), parent, [1, 2]).job
    assert [(item.custom_id, item.text) for item in child.items()] == [("b", LONG), ("c", "y")]
    assert list(child.parents() or ()) == [1, 2]
    assert (child.manifest.retry_of, child.manifest.metadata, child.manifest.key) == (parent.id, {"m": "1"}, None)
    assert child.manifest.chunks == 9
    assert parent.children() == [child.id]
    assert parent.parents() is None
    with pytest.raises(InvalidInput, match="has nothing to retry"):
        submission.retry(Spool(tmp_path), parent, [])
    assert Spool(tmp_path).ids() == [parent.id, child.id]
    again = submission.retry(Spool(tmp_path), parent, [1], key="r")
    assert submission.retry(Spool(tmp_path), parent, [2], key="r").job.id == again.job.id
