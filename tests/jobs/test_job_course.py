"""The next step of a job, by what it is on disk and in Redis."""

import pytest

from aegis_workers.jobs import course
from aegis_workers.jobs.course import Facts, Step
from aegis_workers.jobs.journal import State
from aegis_workers.state.job_state import JobState
from aegis_workers.state.job_state import State as RedisState


def redis(recorded: int = 5, collected: int = 5, state: RedisState = RedisState.OPEN) -> JobState:
    return JobState(job_id="job", state=state, recorded=recorded, collected=collected)


OPEN, CLOSING = redis(), redis(state=RedisState.CLOSING)


def decide(
    state: State, in_redis: JobState | None, *, missing: int = 3, has_expired: bool = False, expires: bool = False
) -> Step | None:
    facts = Facts(state=state, has_expired=has_expired, expires=expires, collected=5, missing=missing, in_redis=in_redis)
    return course.decide(facts)


@pytest.mark.parametrize("state", [state for state in State if state.is_terminal])
def test_a_job_that_ended_is_forgotten_once(state: State) -> None:
    assert decide(state, OPEN) is Step.FORGET
    assert decide(state, None) is None


@pytest.mark.parametrize("state", [state for state in State if not state.is_terminal])
def test_a_job_that_redis_does_not_know_as_the_disk_does_is_installed(state: State) -> None:
    assert decide(state, None) is Step.INSTALL
    assert decide(state, redis(recorded=6, collected=6)) is Step.INSTALL
    assert decide(state, redis(recorded=4, collected=4)) is Step.INSTALL


def test_outcomes_are_collected_before_anything_else_is_done_with_an_open_job() -> None:
    assert decide(State.IN_PROGRESS, redis(recorded=6)) is Step.COLLECT
    assert decide(State.STOPPED, redis(recorded=6)) is Step.COLLECT
    assert decide(State.IN_PROGRESS, OPEN) is Step.GO_ON


def test_a_job_of_which_all_is_there_is_finished() -> None:
    assert decide(State.IN_PROGRESS, OPEN, missing=0) is Step.FINISH
    assert decide(State.FINALIZING, OPEN, missing=0) is Step.FINISH
    assert decide(State.STOPPED, OPEN, missing=0) is Step.FINISH
    assert decide(State.IN_PROGRESS, OPEN, missing=0, has_expired=True) is Step.FINISH


def test_a_job_that_is_cancelled_or_has_expired_is_closed_then_collected_then_broken_off() -> None:
    for state, expires in ((State.CANCELLING, False), (State.FINALIZING, True), (State.CANCELLING, True)):
        assert decide(state, redis(recorded=6), expires=expires) is Step.CLOSE
        assert decide(state, redis(recorded=6, state=RedisState.CLOSING), expires=expires) is Step.COLLECT
        assert decide(state, CLOSING, expires=expires) is Step.BREAK_OFF


def test_that_the_time_of_a_job_is_up_is_written_down_first() -> None:
    assert decide(State.IN_PROGRESS, redis(recorded=6), has_expired=True) is Step.EXPIRE
    assert decide(State.STOPPED, None, has_expired=True) is Step.EXPIRE
    assert decide(State.CANCELLING, OPEN, has_expired=True) is Step.CLOSE


def test_a_job_that_was_told_to_end_when_all_is_there_ends_so() -> None:
    assert decide(State.CANCELLING, CLOSING, missing=0) is Step.BREAK_OFF
    assert decide(State.FINALIZING, CLOSING, missing=0, expires=True) is Step.BREAK_OFF


def test_a_job_that_was_closed_and_goes_on_after_all_is_opened_again() -> None:
    assert decide(State.IN_PROGRESS, CLOSING) is Step.INSTALL
