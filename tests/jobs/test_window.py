"""Feeding decided without feeding: shares, bounds and turns."""

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.jobs import window
from aegis_workers.jobs.window import EMPTY, Applicant, Load

BOUNDS = Load(calls=64, size_bytes=1000)
SMALL = Load(calls=4, size_bytes=10)


def asking(job_id: str, calls: int = 0, size_bytes: int = 0, *, batch: Load = SMALL) -> Applicant:
    return Applicant(job_id=job_id, in_motion=Load(calls=calls, size_bytes=size_bytes), batch=batch)


def chosen(*applicants: Applicant, idle: Load = EMPTY) -> str | None:
    total = idle
    for applicant in applicants:
        total += applicant.in_motion
    found = window.choose(applicants, total, BOUNDS)
    return None if found is None else found.job_id


def test_nobody_is_fed_where_nobody_asks() -> None:
    assert window.choose([], EMPTY, BOUNDS) is None


def test_the_job_with_the_smallest_share_is_fed() -> None:
    assert chosen(asking("old", 32), asking("new")) == "new"


def test_a_share_counts_by_what_the_job_takes_most_of() -> None:
    assert chosen(asking("few large", 1, 900), asking("many small", 32, 90)) == "many small"


def test_equal_shares_go_to_the_older_job() -> None:
    assert chosen(asking("b", 4), asking("a", 4)) == "a"


def test_a_full_window_feeds_nobody() -> None:
    assert chosen(asking("a", 61)) is None


def test_a_window_full_of_bytes_feeds_nobody() -> None:
    assert chosen(asking("a", 1, 991)) is None


def test_what_others_have_in_motion_fills_the_window_too() -> None:
    assert chosen(asking("a"), idle=Load(calls=61)) is None


def test_nobody_passes_the_job_whose_turn_it_is() -> None:
    large = Load(calls=1, size_bytes=600)
    assert chosen(asking("large", batch=large), asking("small", 1, 500)) is None


def test_a_batch_larger_than_the_window_goes_alone() -> None:
    large = Load(calls=1, size_bytes=5000)
    assert chosen(asking("large", batch=large)) == "large"
    assert chosen(asking("large", batch=large), idle=SMALL) is None


loads = st.builds(Load, calls=st.integers(0, 200), size_bytes=st.integers(0, 3000))


@given(loads, loads)
def test_what_waits_for_an_engine_takes_nobodys_room_but_beyond_a_window_of_its_own(moving: Load, stuck: Load) -> None:
    counted = window.occupied(moving, stuck, BOUNDS)
    assert counted == moving if stuck.fits(BOUNDS) else counted != moving
    if counted.fits(BOUNDS):
        assert (moving + stuck).fits(BOUNDS + BOUNDS)


batches = st.builds(Load, calls=st.integers(1, 32), size_bytes=st.integers(1, 400))
work = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=2), st.lists(batches, min_size=1, max_size=30), min_size=1, max_size=5
)


def run(jobs: Mapping[str, Sequence[Load]], draw: st.DataObject) -> Sequence[Mapping[str, Sequence[Load]]]:
    """Feeds everything, batches ending in any order; what was in motion after each step, by job."""
    left = {name: list(todo) for name, todo in jobs.items()}
    moving: dict[str, list[Load]] = {name: [] for name in jobs}
    seen = []
    while any(left.values()) or any(moving.values()):
        applicants = [
            Applicant(job_id=name, in_motion=sum(moving[name], EMPTY), batch=todo[0]) for name, todo in left.items() if todo
        ]
        found = window.choose(applicants, sum((load for loads in moving.values() for load in loads), EMPTY), BOUNDS)
        if found is not None:
            moving[found.job_id].append(left[found.job_id].pop(0))
        else:
            name = draw.draw(st.sampled_from([name for name, loads in moving.items() if loads]))
            moving[name].pop(draw.draw(st.integers(0, len(moving[name]) - 1)))
        seen.append({name: tuple(loads) for name, loads in moving.items()})
    return seen


@given(work, st.data())
def test_everything_is_fed_and_the_bounds_hold_at_every_step(jobs: Mapping[str, Sequence[Load]], draw: st.DataObject) -> None:
    for moving in run(jobs, draw):
        assert sum((load for loads in moving.values() for load in loads), EMPTY).fits(BOUNDS)


@given(st.integers(2, 6), st.integers(1, 32))
def test_jobs_that_all_have_work_share_the_window_within_one_batch(count: int, calls: int) -> None:
    moving = {f"job{number}": EMPTY for number in range(count)}
    batch = Load(calls=calls, size_bytes=1)
    while True:
        applicants = [Applicant(job_id=name, in_motion=load, batch=batch) for name, load in moving.items()]
        found = window.choose(applicants, sum(moving.values(), EMPTY), BOUNDS)
        if found is None:
            break
        moving[found.job_id] += batch
    assert max(load.calls for load in moving.values()) - min(load.calls for load in moving.values()) <= calls
