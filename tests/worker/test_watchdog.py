from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.worker import watchdog
from aegis_workers.worker.signs import Signs

IDLE = Signs(
    at=100.0,
    turned_at=100.0,
    connected=True,
    queues=("chat",),
    taken=7,
    held=0,
    stopping=False,
    queued=3,
    answering_since=0.0,
)


def test_a_worker_that_takes_nothing_from_a_queue_with_messages_starves_since_the_first_look() -> None:
    since, before = None, None
    for at in (100.0, 102.0, 104.0):
        now = replace(IDLE, at=at)
        since, before = watchdog.starving_since(since, before, now), now
    assert since == 100.0


@pytest.mark.parametrize(
    "sign",
    [
        {"queued": 0},
        {"queued": None, "answering_since": None},
        {"refused": True},
        {"held": 1},
        {"stopping": True},
    ],
    ids=lambda sign: next(iter(sign)),
)
def test_a_worker_does_not_starve_while(sign: dict[str, int | None]) -> None:
    assert watchdog.starving_since(100.0, IDLE, replace(IDLE, at=102.0, **sign)) is None  # type: ignore[arg-type]


def test_one_message_taken_begins_the_wait_anew() -> None:
    assert watchdog.starving_since(40.0, IDLE, replace(IDLE, at=102.0, taken=8)) == 102.0


def test_a_pause_of_redis_begins_the_wait_anew() -> None:
    assert watchdog.starving_since(40.0, IDLE, replace(IDLE, at=102.0, answering_since=101.0)) == 102.0


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1))
def test_it_starves_only_since_a_look_after_which_nothing_was_taken_and_no_queue_was_empty(looks: list[tuple[int, bool]]) -> None:
    since, before, taken, expected = None, None, 0, None
    for at, (queued, took) in enumerate(looks):
        taken += took
        now = replace(IDLE, at=float(at), queued=queued, taken=taken)
        since, before = watchdog.starving_since(since, before, now), now
        if not queued:
            expected = None
        elif took or expected is None:
            expected = float(at)
    assert since == expected
