import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.dispatch import attempts
from aegis_workers.dispatch.attempts import MAX_ATTEMPTS, MAX_REASKS, Again, Done, Tally
from aegis_workers.errors import EngineBusy, EngineError, EngineLost, EngineUnreachable, EngineWithdrew, RequestRefused

jitters = st.floats(0, 1)
tallies = st.builds(
    Tally, attempts=st.integers(0, MAX_ATTEMPTS - 1), reasks=st.integers(0, MAX_REASKS), losses=st.integers(0, 10_000)
)
lost = st.sampled_from([EngineWithdrew("abort"), EngineUnreachable("refused"), EngineUnreachable("gone", retry_after_s=9.0)])


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (EngineUnreachable("x"), Tally(), Again(delay_s=0.1, tally=Tally(losses=1))),
        (EngineWithdrew("x"), Tally(attempts=3, losses=2), Again(delay_s=0.4, tally=Tally(attempts=3, losses=3))),
        (EngineUnreachable("x"), Tally(losses=50), Again(delay_s=5.0, tally=Tally(losses=51))),
        (EngineLost("x"), Tally(), Again(delay_s=0.1, tally=Tally(losses=1, crashes=1))),
        (EngineLost("x"), Tally(losses=9, crashes=2), Done(tally=Tally(losses=10, crashes=3))),
        (EngineBusy("x", status=503), Tally(attempts=10), Again(delay_s=5.0, tally=Tally(attempts=11))),
        (EngineBusy("x", status=503), Tally(attempts=19), Done(tally=Tally(attempts=20))),
        (EngineBusy("x"), Tally(), Again(delay_s=0.5, tally=Tally(attempts=1))),
        (EngineBusy("x"), Tally(attempts=2), Again(delay_s=2.0, tally=Tally(attempts=3))),
        (EngineBusy("x"), Tally(attempts=3), Done(tally=Tally(attempts=4))),
        (EngineBusy("x", retry_after_s=7), Tally(), Again(delay_s=7.0, tally=Tally(attempts=1))),
        (EngineBusy("x", retry_after_s=0.1), Tally(), Again(delay_s=0.5, tally=Tally(attempts=1))),
        (RequestRefused("x"), Tally(), Done(tally=Tally(attempts=1))),
        (RequestRefused("x"), Tally(attempts=2, losses=1), Done(tally=Tally(attempts=3, losses=1))),
    ],
)
def test_what_follows_an_error(error: EngineError, before: Tally, after: Again | Done) -> None:
    assert attempts.after_error(error, before, jitter=1.0) == after


@given(lost, tallies, jitters)
def test_an_engine_that_went_away_never_costs_an_attempt_nor_ends_the_call(
    error: EngineError, tally: Tally, jitter: float
) -> None:
    step = attempts.after_error(error, tally, jitter)
    assert isinstance(step, Again)
    assert (step.tally.attempts, step.tally.losses) == (tally.attempts, tally.losses + 1)
    assert 0.05 <= step.delay_s <= 5.0


@given(st.lists(st.sampled_from([EngineBusy("busy"), EngineWithdrew("abort")]), max_size=40), jitters)
def test_an_engine_that_answers_badly_is_asked_a_bounded_number_of_times(errors: list[EngineError], jitter: float) -> None:
    step: Again | Done = Again(delay_s=0, tally=Tally())
    asked = 0
    for error in errors:
        if isinstance(step, Done):
            break
        asked += isinstance(error, EngineBusy)
        step = attempts.after_error(error, step.tally, jitter)
    assert asked == step.tally.attempts <= MAX_ATTEMPTS
    assert isinstance(step, Done) is (asked == MAX_ATTEMPTS)


@given(tallies.filter(lambda tally: tally.attempts < MAX_ATTEMPTS - 1), jitters, st.none() | st.floats(0, 1e6))
def test_a_busy_engine_is_left_alone_as_long_as_it_asks_and_at_least_for_the_backoff(
    tally: Tally, jitter: float, retry_after_s: float | None
) -> None:
    plain = attempts.after_error(EngineBusy("busy"), tally, jitter)
    asked = attempts.after_error(EngineBusy("busy", retry_after_s=retry_after_s), tally, jitter)
    assert isinstance(plain, Again)
    assert isinstance(asked, Again)
    assert 0.25 <= plain.delay_s <= 15.0
    assert asked.delay_s == max(plain.delay_s, retry_after_s or 0.0)


@given(tallies, jitters, jitters)
def test_calls_that_failed_together_come_back_apart(tally: Tally, one: float, other: float) -> None:
    first, second = (attempts.after_error(EngineLost("gone"), tally, jitter) for jitter in sorted((one, other)))
    assert isinstance(first, Again)
    assert isinstance(second, Again)
    assert first.delay_s <= second.delay_s <= 2 * first.delay_s


@given(tallies, st.booleans(), st.booleans())
def test_an_answer_is_taken_unless_another_may_be_better(tally: Tally, usable: bool, may_reask: bool) -> None:  # noqa: FBT001
    step = attempts.after_answer(tally, usable=usable, may_reask=may_reask)
    assert step.tally.attempts == tally.attempts + 1
    assert isinstance(step, Again) is (not usable and may_reask and tally.reasks < MAX_REASKS)
    if isinstance(step, Again):
        assert step.tally.reasks == tally.reasks + 1
        assert step.delay_s == 0
