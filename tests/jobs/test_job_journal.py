"""The states of a job on the disk: who comes second never overwrites who came first."""

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import pytest

from aegis_workers.errors import SpoolUnavailable
from aegis_workers.jobs.journal import Entry, Event, Journal, State

STARTED = Entry(at=1.0, event=Event.SUBMITTED, state=State.IN_PROGRESS)
ENDED = Entry(at=2.0, event=Event.ENDED, state=State.COMPLETED, counts={"ok": 3}, totals={"engine_ms:vllm": 1.5})


def test_entries_come_back_in_their_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.append(1, STARTED)
    assert journal.append(2, ENDED)
    assert Journal(tmp_path).entries() == (STARTED, ENDED)
    assert journal.last() == ENDED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001.json", "000002.json"]


def test_a_number_is_taken_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.append(1, STARTED)
    assert not journal.append(1, ENDED)
    assert journal.entries() == (STARTED,)


def test_nothing_follows_a_terminal_state(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(1, STARTED)
    journal.append(2, ENDED)
    assert not journal.append(3, STARTED)
    assert journal.change(lambda _: STARTED) == ENDED
    assert len(journal.entries()) == 2


def test_an_entry_cannot_be_skipped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="entry 2 cannot follow entry 0"):
        Journal(tmp_path).append(2, STARTED)


def test_who_loses_a_number_decides_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(1, STARTED)
    seen: list[int] = []

    def decide(entries: Sequence[Entry]) -> Entry | None:
        seen.append(len(entries))
        if len(entries) == 1:  # another comes first
            Journal(tmp_path).append(2, Entry(event=Event.CANCELLING, state=State.CANCELLING))
        return None if entries[-1].state is State.STOPPED else Entry(event=Event.STOPPED, state=State.STOPPED)

    assert journal.change(decide).state is State.STOPPED
    assert seen == [1, 2]
    assert journal.change(decide).state is State.STOPPED
    assert [entry.state for entry in journal.entries()] == [State.IN_PROGRESS, State.CANCELLING, State.STOPPED]


def count_up(folder: str) -> None:
    for _ in range(20):
        Journal(Path(folder)).change(lambda entries: Entry(event=Event.PINNED, state=State.IN_PROGRESS, reason=str(len(entries))))


def test_of_several_processes_each_entry_is_ones(tmp_path: Path) -> None:
    Journal(tmp_path).append(1, STARTED)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=count_up, args=(str(tmp_path),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    reasons = [entry.reason for entry in Journal(tmp_path).entries()]
    assert reasons == [None, *map(str, range(1, 61))]


def test_a_journal_with_a_gap_or_nonsense_is_said_to_be_damaged(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(SpoolUnavailable, match="has no entry"):
        journal.last()
    journal.append(1, STARTED)
    (tmp_path / "000003.json").write_bytes(STARTED.to_json())
    with pytest.raises(SpoolUnavailable, match="lacks an entry"):
        journal.entries()
    (tmp_path / "000003.json").unlink()
    (tmp_path / "000001.json").write_bytes(b"{")
    with pytest.raises(SpoolUnavailable, match="cannot be read"):
        journal.entries()
