import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from dispatch_place import CALL_IDS, Place, call, given_back
from settling import begun, ended, settled
from structlog.testing import capture_logs
from suspects_here import SuspectsHere

from aegis_workers import telemetry
from aegis_workers.completion import Completion, CompletionRequest, Finish, Message, Sampling
from aegis_workers.dispatch import attempts
from aegis_workers.dispatch.calls import CallOutcome, Calls
from aegis_workers.engines.base import EngineClient, Readiness
from aegis_workers.errors import (
    ConfigurationError,
    DeadlineExceeded,
    EngineBusy,
    EngineError,
    EngineLost,
    EngineUnreachable,
    ErrorClass,
    RequestRefused,
    WorkerStopping,
)
from aegis_workers.outcome import Problem, Status
from aegis_workers.routing import Because, Engine, Mode, TaskType
from aegis_workers.telemetry import AttemptEnded, CallAdmitted, CallFinished, Killed, PoisonFound, SlotsExchanged

pytestmark = pytest.mark.anyio

VLLM, OLLAMA = Engine.VLLM, Engine.OLLAMA
CHAT, EXTRACTION = TaskType.CHAT, TaskType.EXTRACTION
PLANTED = "zanzibar"
REQUEST = CompletionRequest(messages=(Message(role="user", content=PLANTED),), sampling=Sampling(seed=7, temperature=0.0))

Losses = list[tuple[EngineClient, EngineLost]]


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BUSY_FIRST_S", "_LOST_FIRST_S"):
        monkeypatch.setattr(attempts, name, 0.0)


@pytest.fixture
async def place(anyio_backend: str) -> AsyncIterator[Place]:
    del anyio_backend
    async with Place(mode=Mode.OLLAMA).open() as place:
        yield place


@pytest.fixture
def losses() -> Losses:
    return []


def calls_of(
    place: Place, losses: Losses | None = None, *, timeout_s: float = 60.0, suspects: SuspectsHere | None = None
) -> Calls:
    async def report(client: EngineClient, error: EngineLost) -> None:
        if losses is not None:
            losses.append((client, error))

    return Calls(place.admission, suspects or SuspectsHere(), timeout_s=timeout_s, report_lost=report)


@pytest.fixture
def calls(place: Place, losses: Losses) -> Calls:
    return calls_of(place, losses)


def usable(_: Completion) -> Status:
    return Status.OK


def judged_by(text: str) -> Callable[[Completion], Status]:
    return lambda completion: Status.OK if completion.text == text else Status.INVALID


async def asking(calls: Calls, task_type: TaskType = CHAT, **options: Any) -> asyncio.Task[CallOutcome]:
    return await begun(calls.run(task_type, CALL_IDS(), REQUEST, options.pop("judge", usable), **options))


async def test_an_answer_is_an_outcome_that_says_where_it_came_from_and_why(place: Place, calls: Calls) -> None:
    call = await asking(calls)
    (await place.asked(OLLAMA)).answer("yes")
    outcome = await call
    assert (outcome.status, outcome.engine, outcome.mode, outcome.attempts) == (Status.OK, OLLAMA, Mode.OLLAMA, 1)
    assert outcome.reason == "mode ollama prefers Ollama for chat"
    assert outcome.completion is not None
    assert outcome.completion.text == "yes"
    assert outcome.problem is None
    assert outcome.elapsed_s >= 0
    assert calls.throughput.tokens_per_s["ollama"] > 0
    assert place.admission.in_flight == {}


async def test_what_the_engine_will_never_serve_fails_at_once_with_its_words(place: Place, calls: Calls) -> None:
    call = await asking(calls)
    (await place.asked(OLLAMA)).fail(RequestRefused("Ollama refused the request (HTTP 400): why", words="no such schema"))
    outcome = await call
    assert (outcome.status, outcome.attempts, outcome.completion) == (Status.FAILED, 1, None)
    assert outcome.problem == Problem(
        error_class="item-fatal", message="Ollama refused the request (HTTP 400): why: no such schema"
    )
    assert len(place.engines[OLLAMA][0].asked) == 1


async def test_an_engine_that_is_busy_is_asked_again_and_each_time_is_an_attempt(place: Place, calls: Calls) -> None:
    call = await asking(calls)
    for _ in range(2):
        (await place.asked(OLLAMA)).fail(EngineBusy("HTTP 503"))
    (await place.asked(OLLAMA)).answer()
    outcome = await call
    assert (outcome.status, outcome.attempts) == (Status.OK, 3)


async def test_an_engine_that_stays_busy_fails_the_call_with_its_last_words(place: Place, calls: Calls) -> None:
    call = await asking(calls)
    for number in range(attempts.MAX_ATTEMPTS):
        (await place.asked(OLLAMA)).fail(EngineBusy(f"HTTP 503, number {number}"))
    outcome = await call
    assert (outcome.status, outcome.attempts) == (Status.FAILED, attempts.MAX_ATTEMPTS)
    assert outcome.problem == Problem(error_class="transient", message="HTTP 503, number 3")


async def test_an_answer_that_takes_too_long_is_closed_at_the_engine_and_counts_as_an_attempt(place: Place) -> None:
    outcome = await calls_of(place, timeout_s=0.01).run(CHAT, CALL_IDS(), REQUEST, usable)
    asked = place.engines[OLLAMA][0].asked
    assert [request.closed for request in asked] == [True] * attempts.MAX_ATTEMPTS
    assert (outcome.status, outcome.attempts) == (Status.FAILED, attempts.MAX_ATTEMPTS)
    assert outcome.problem is not None
    assert outcome.problem.message == "Ollama gave no whole answer within AEGIS_CALL_TIMEOUT_S=0.01 s"


async def test_the_slot_is_free_while_a_call_waits_to_ask_again(
    place: Place, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_BUSY_FIRST_S", 600.0)
    task = await asking(calls)
    (await place.asked(OLLAMA)).fail(EngineBusy("HTTP 503"))
    await settled()
    assert place.admission.in_flight == {}
    await ended(task)


async def test_a_call_whose_engine_went_away_waits_and_then_runs_on_the_other_without_a_spent_attempt(
    place: Place, calls: Calls, losses: Losses
) -> None:
    place.set_mode(Mode.AUTO)
    call = await asking(calls, EXTRACTION)
    error = EngineLost("vLLM: connection lost")
    (await place.asked(VLLM)).fail(error)
    place.set_state(VLLM, Readiness.UNAVAILABLE, "connection refused")
    place.set_state(OLLAMA, Readiness.STARTING)
    await settled()
    assert place.admission.waiting == {"waits for vLLM: connection refused; waits for Ollama: starting": 1}
    assert losses == [(place.engines[VLLM][0], error)]

    place.set_state(OLLAMA, Readiness.READY)
    (await place.asked(OLLAMA)).answer()
    outcome = await call

    assert (outcome.status, outcome.engine, outcome.attempts) == (Status.OK, OLLAMA, 1)
    assert outcome.reason.endswith("fell back to Ollama")


async def test_an_engine_that_is_lost_any_number_of_times_never_fails_a_call(place: Place, calls: Calls, losses: Losses) -> None:
    call = await asking(calls)
    for _ in range(20):
        (await place.asked(OLLAMA)).fail(EngineUnreachable("Ollama: connection refused"))
    (await place.asked(OLLAMA)).answer()
    outcome = await call
    assert (outcome.status, outcome.attempts) == (Status.OK, 1)
    assert len(losses) == 20


async def test_every_attempt_is_routed_anew_and_the_outcome_names_the_last(place: Place, calls: Calls) -> None:
    call = await asking(calls)
    asked = await place.asked(OLLAMA)
    place.set_mode(Mode.VLLM)
    asked.fail(EngineBusy("HTTP 500"))
    (await place.asked(VLLM)).answer()
    outcome = await call
    assert (outcome.engine, outcome.mode, outcome.attempts) == (VLLM, Mode.VLLM, 2)


async def test_an_answer_that_cannot_be_used_is_asked_for_again_with_another_seed_and_temperature(
    place: Place, calls: Calls
) -> None:
    call = await asking(calls, EXTRACTION, judge=judged_by("good"), may_reask=True)
    for text in ("bad", "worse", "worst"):
        (await place.asked(OLLAMA)).answer(text)
    outcome = await call
    asked = [request.request.sampling for request in place.engines[OLLAMA][0].asked]
    assert [sampling.seed for sampling in asked] == [7, 8, 9]
    assert [sampling.temperature for sampling in asked] == pytest.approx([0.0, 0.3, 0.6])
    assert (outcome.status, outcome.attempts) == (Status.INVALID, 3)
    assert outcome.completion is not None
    assert outcome.completion.text == "worst"
    assert {request.request.messages for request in place.engines[OLLAMA][0].asked} == {REQUEST.messages}


async def test_a_better_answer_is_taken(place: Place, calls: Calls) -> None:
    call = await asking(calls, EXTRACTION, judge=judged_by("good"), may_reask=True)
    for text in ("bad", "good"):
        (await place.asked(OLLAMA)).answer(text)
    outcome = await call
    assert (outcome.status, outcome.attempts) == (Status.OK, 2)


async def test_a_seed_that_nobody_chose_is_not_invented(place: Place, calls: Calls) -> None:
    request = CompletionRequest(messages=REQUEST.messages, sampling=Sampling(temperature=0.9))
    task = await begun(calls.run(EXTRACTION, CALL_IDS(), request, judged_by("good"), may_reask=True))
    for text in ("bad", "good"):
        (await place.asked(OLLAMA)).answer(text)
    await task
    again = place.engines[OLLAMA][0].asked[1].request.sampling
    assert (again.seed, again.temperature) == (None, 1.0)


@pytest.mark.parametrize("status", [Status.INVALID, Status.TRUNCATED])
async def test_without_leave_to_ask_again_the_first_answer_is_the_outcome(place: Place, calls: Calls, status: Status) -> None:
    call = await asking(calls, judge=lambda _: status)
    (await place.asked(OLLAMA)).answer(finish=Finish.LENGTH)
    outcome = await call
    assert (outcome.status, outcome.attempts) == (status, 1)


async def test_a_call_that_is_cancelled_closes_its_request_and_gives_its_slot_back(place: Place, calls: Calls) -> None:
    call = await asking(calls)
    asked = await place.asked(OLLAMA)
    await ended(call)
    assert asked.closed
    assert place.engines[OLLAMA][0].open == []
    assert place.admission.in_flight == {}


async def test_a_call_that_can_run_nowhere_fails_with_the_reason() -> None:
    async with Place(mode=Mode.VLLM, replicas={VLLM: 0}).open() as place:
        with pytest.raises(ConfigurationError, match="AEGIS_VLLM_MODEL"):
            await calls_of(place).run(CHAT, CALL_IDS(), REQUEST, usable)


async def test_a_call_that_waits_when_the_worker_stops_goes_back(place: Place, calls: Calls) -> None:
    place.set_state(VLLM, Readiness.STARTING)
    place.set_state(OLLAMA, Readiness.STARTING)
    task = await asking(calls)
    place.admission.close()
    with pytest.raises(WorkerStopping):
        await task


async def run_within(calls: Calls, deadline_s: float) -> CallOutcome:
    async with calls.within(deadline_s, CHAT):
        return await calls.run(CHAT, CALL_IDS(), REQUEST, usable)


async def test_a_deadline_names_the_engine_that_the_call_waited_for(place: Place, calls: Calls) -> None:
    place.set_mode(Mode.VLLM)
    place.set_state(VLLM, Readiness.STARTING)
    place.set_state(OLLAMA, Readiness.UNAVAILABLE)
    with pytest.raises(DeadlineExceeded, match="waits for vLLM: starting") as caught:
        await run_within(calls, 0.2)
    assert caught.value.__suppress_context__
    await settled()
    assert place.admission.waiting == {}


async def test_a_deadline_names_the_slots_that_the_call_waited_for(place: Place, calls: Calls) -> None:
    holders = [call(place, CHAT) for _ in range(2)]
    await settled()
    with pytest.raises(DeadlineExceeded, match="Ollama has 2 of 2 calls in flight"):
        await run_within(calls, 0.2)
    for holder in holders:
        await ended(holder.task)


async def test_a_deadline_names_the_engine_that_had_not_answered_and_closes_the_request(place: Place, calls: Calls) -> None:
    with pytest.raises(DeadlineExceeded, match="Ollama had not answered") as caught:
        await run_within(calls, 0.2)
    assert "its turn" not in str(caught.value)
    assert [asked.closed for asked in place.engines[OLLAMA][0].asked] == [True]
    assert place.admission.in_flight == {}


async def test_a_deadline_that_passes_between_attempts_names_what_the_last_one_met(
    place: Place, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_BUSY_FIRST_S", 600.0)
    task = await begun(run_within(calls, 0.3))
    (await place.asked(OLLAMA)).fail(EngineBusy("Ollama could not serve the request now (HTTP 503)", words=PLANTED))
    with pytest.raises(DeadlineExceeded, match=r"last: Ollama could not serve the request now \(HTTP 503\)$"):
        await task


async def test_a_deadline_that_passes_while_a_lost_engine_is_waited_for_names_the_wait(place: Place, calls: Calls) -> None:
    task = await begun(run_within(calls, 0.3))
    asked = await place.asked(OLLAMA)
    for engine in Engine:
        place.set_state(engine, Readiness.STARTING)
    asked.fail(EngineLost("Ollama: connection lost"))
    with pytest.raises(DeadlineExceeded, match="last: waits for Ollama: starting; waits for vLLM: starting"):
        await task


async def test_tasks_side_by_side_each_name_what_they_waited_for_themselves(place: Place, calls: Calls) -> None:
    holders = [call(place, CHAT)]
    # The one without a slot ends first: at the end of the other it would take the slot that becomes free.
    running, waiting = await begun(run_within(calls, 0.6)), await begun(run_within(calls, 0.2))
    with pytest.raises(DeadlineExceeded, match="2 of 2 calls in flight"):
        await waiting
    with pytest.raises(DeadlineExceeded, match="Ollama had not answered"):
        await running
    await ended(holders[0].task)


@pytest.mark.parametrize("deadline_s", [0.0, -5.0])
async def test_a_deadline_that_passed_in_the_queue_is_said_so_and_nothing_is_sent(
    place: Place, calls: Calls, deadline_s: float
) -> None:
    with pytest.raises(DeadlineExceeded, match="in its queue") as caught:
        await run_within(calls, deadline_s)
    assert "-5" not in str(caught.value)
    assert place.engines[OLLAMA][0].asked == []


async def test_a_call_that_is_done_in_time_is_not_disturbed(place: Place, calls: Calls) -> None:
    task = await begun(run_within(calls, 60))
    (await place.asked(OLLAMA)).answer()
    assert (await task).status is Status.OK


async def test_a_timeout_that_is_not_the_deadline_stays_itself(calls: Calls) -> None:
    async def fail() -> None:
        async with calls.within(60, CHAT):
            raise TimeoutError("of something else")

    with pytest.raises(TimeoutError, match="of something else"):
        await fail()


async def test_a_finished_call_leaves_one_line_without_what_anybody_wrote(place: Place, calls: Calls) -> None:
    with capture_logs() as logs:
        call = await asking(calls, judge=judged_by("good"), may_reask=True)
        for _ in range(3):
            (await place.asked(OLLAMA)).answer(PLANTED)
        await call
        call = await asking(calls)
        (await place.asked(OLLAMA)).fail(RequestRefused("refused", words=PLANTED))
        await call
    assert [line["event"] for line in logs] == ["call.finished"] * 2
    assert PLANTED not in repr(logs)
    assert {"task_type", "status", "engine", "mode", "reason", "attempts", "ms"} <= set(logs[0])
    assert (logs[0]["status"], logs[0]["attempts"], logs[1]["problem"]) == ("invalid", 3, "item-fatal")


async def test_a_call_in_flight_at_three_crashes_is_set_aside_and_was_the_only_suspect_at_the_last(place: Place) -> None:
    suspects = SuspectsHere()
    call_id = CALL_IDS()
    task = await begun(calls_of(place, suspects=suspects).run(CHAT, call_id, REQUEST, usable))
    told: list[telemetry.Fact] = []
    for number in range(attempts.MAX_CRASHES):
        assert suspects.seen == ([(call_id.task_id, 0)] if number == attempts.MAX_CRASHES - 1 else [])
        while not place.engines[OLLAMA][0].open:  # noqa: ASYNC110 - the pause before the next attempt
            await asyncio.sleep(0.01)
        place.engines[OLLAMA][0].open[0].fail(EngineLost("Ollama: connection lost"))
        with telemetry.heard_by(told.append):
            await settled()
    outcome = await task
    assert outcome.problem is not None
    assert outcome.problem.error_class == "poison"
    assert PoisonFound(killed=Killed.ENGINE) in told
    assert outcome.problem.message == "in flight at 3 crashes of engines, and set aside; last: Ollama: connection lost"
    assert outcome.attempts == 0


@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (EngineLost("connection lost"), True),
        (EngineUnreachable("refused"), True),
        (EngineBusy("HTTP 503", status=503), True),
        (EngineBusy("no answer in time"), True),
        (EngineBusy("HTTP 429", status=429), False),
        (RequestRefused("HTTP 400"), False),
    ],
)
async def test_what_counts_against_a_replica(place: Place, calls: Calls, error: EngineError, opens: bool) -> None:  # noqa: FBT001
    tasks = [await asking(calls) for _ in range(2)]
    (engine,) = place.engines[OLLAMA]
    for asked in list(engine.open):
        asked.fail(error)
    await given_back(place)
    assert (len(place.slots.breakers[engine.url].failed) == 2) is opens
    for task in tasks:
        await ended(task)


async def test_a_call_tells_of_its_slot_its_attempts_and_its_outcome(place: Place, calls: Calls) -> None:
    told: list[telemetry.Fact] = []
    with telemetry.heard_by(told.append):
        place.set_state(OLLAMA, Readiness.UNAVAILABLE, "gone")
        asked = await asking(calls)
        (await place.asked(VLLM)).fail(EngineBusy("overloaded"))
        (await place.asked(VLLM)).answer("yes")
        await asked
    admitted = [fact for fact in told if isinstance(fact, CallAdmitted)]
    assert [(fact.task_type, fact.engine, fact.because) for fact in admitted] == [(CHAT, VLLM, Because.FALLBACK_DOWN)] * 2
    assert all(fact.waited_s >= 0 for fact in admitted)
    ended = [fact for fact in told if isinstance(fact, AttemptEnded)]
    assert [(fact.engine, fact.error) for fact in ended] == [(VLLM, ErrorClass.TRANSIENT), (VLLM, None)]
    [finished] = [fact for fact in told if isinstance(fact, CallFinished)]
    assert (finished.task_type, finished.engine, finished.status) == (CHAT, VLLM, Status.OK)
    assert PLANTED not in repr(told)
    assert any(isinstance(fact, SlotsExchanged) for fact in told)
