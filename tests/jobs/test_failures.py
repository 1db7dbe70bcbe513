"""When a job should stop early."""

from aegis_workers.jobs.failures import Ending, Recent
from aegis_workers.outcome import Status

GOOD = Ending(status=Status.OK)
BAD = Ending(status=Status.FAILED, error="item-fatal: HTTP 404")


def recent(*endings: Ending, share: float = 0.5, window: int = 4) -> Recent:
    found = Recent(share=share, window=window)
    for ending in endings:
        found.note(ending)
    return found


def test_more_failures_than_the_share_stop_a_job_with_the_commonest_error() -> None:
    other = Ending(status=Status.INVALID, error="content: no JSON")
    assert recent(GOOD, other, BAD, BAD).objection() == "3 of the last 4 items failed; most often: item-fatal: HTTP 404"


def test_a_share_that_is_met_and_not_exceeded_stops_nothing() -> None:
    assert recent(GOOD, GOOD, BAD, BAD).objection() is None


def test_too_few_items_tell_nothing() -> None:
    assert recent(BAD, BAD, BAD).objection() is None


def test_failures_that_are_long_ago_do_not_count() -> None:
    assert recent(BAD, BAD, BAD, BAD, GOOD, GOOD).objection() is None


def test_a_share_of_one_never_stops_a_job() -> None:
    assert recent(BAD, BAD, BAD, BAD, share=1.0).objection() is None


def test_partial_and_empty_items_are_no_failures() -> None:
    assert recent(*[Ending(status=Status.PARTIAL)] * 2, *[Ending(status=Status.EMPTY)] * 2).objection() is None


def test_a_resumed_job_is_judged_by_what_comes_then() -> None:
    found = recent(BAD, BAD, BAD, BAD)
    found.forget()
    assert found.objection() is None
