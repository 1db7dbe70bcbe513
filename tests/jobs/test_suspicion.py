"""When the batches of a job are looked for, and which are taken for lost."""

from aegis_workers.jobs.suspicion import AGAIN_S, STILL_S, Suspicion
from aegis_workers.state.job_state import JobState, State
from aegis_workers.state.jobs import FedBatch


def state(recorded: int = 0, out_chunks: int = 32) -> JobState:
    return JobState(job_id="job", state=State.OPEN, recorded=recorded, out_chunks=out_chunks)


def batch(name: str) -> FedBatch:
    return FedBatch(batch_id=name, chunks=((0, 31),), count=32, size_bytes=1, at_ms=0)


def still(found: Suspicion, now: float, **facts: int) -> bool:
    found.note(state(**facts), now)
    return found.is_due(state(**facts), now)


def test_a_job_that_moves_is_not_looked_at() -> None:
    found = Suspicion()
    assert not any(still(found, STILL_S * turn, recorded=turn) for turn in range(5))


def test_a_job_that_stands_still_is_looked_at_now_and_then() -> None:
    found = Suspicion()
    assert not still(found, 0.0)
    assert not still(found, STILL_S - 0.1)
    assert still(found, STILL_S)
    found.judge([], set(), STILL_S)
    assert not still(found, STILL_S + AGAIN_S - 0.1)
    assert still(found, STILL_S + AGAIN_S)


def test_a_job_of_which_nothing_is_on_its_way_is_not_looked_at() -> None:
    found = Suspicion()
    found.note(state(out_chunks=0), 0.0)
    assert not found.is_due(state(out_chunks=0), 10 * STILL_S)


def test_only_what_two_looks_in_a_row_miss_is_lost() -> None:
    found = Suspicion()
    fed = [batch("a"), batch("b"), batch("c")]
    assert found.judge(fed, {"c"}, 0.0) == []
    assert [lost.batch_id for lost in found.judge(fed, {"b"}, 10.0)] == ["a"]
    assert [lost.batch_id for lost in found.judge(fed[1:], set(), 20.0)] == ["c"]


def test_a_job_that_moved_between_two_looks_is_judged_anew() -> None:
    found = Suspicion()
    found.note(state(), 0.0)
    found.judge([batch("a")], set(), 0.0)
    found.note(state(recorded=1), 1.0)
    assert found.judge([batch("a")], set(), 2.0) == []
