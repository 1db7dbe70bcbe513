"""Engines that the leading controller has fenced: no call goes there, and those that are there are closed when it says so."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from dispatch_place import CALL_IDS, FOR_EVER_S, Place, call, given_back
from settling import begun, settled
from suspects_here import SuspectsHere

from aegis_workers.completion import Completion, CompletionRequest, Message, Sampling
from aegis_workers.dispatch import attempts
from aegis_workers.dispatch.calls import CallOutcome, Calls
from aegis_workers.engines.base import EngineClient
from aegis_workers.errors import EngineLost
from aegis_workers.outcome import Status
from aegis_workers.routing import Engine, Lane, Mode, TaskType
from aegis_workers.state.breaker import CLOSED
from aegis_workers.state.engine_control import Control, Phase

pytestmark = pytest.mark.anyio

VLLM, OLLAMA = Engine.VLLM, Engine.OLLAMA
CHAT, EXTRACTION = TaskType.CHAT, TaskType.EXTRACTION
OPEN = Control(phase=Phase.READY, since=1.0)
DRAINING = Control(phase=Phase.DRAINING, since=2.0, reason="mode ollama", fenced=True)
CLOSING = replace(DRAINING, closing=True)
REQUEST = CompletionRequest(messages=(Message(role="user", content="hi"),), sampling=Sampling())

Losses = list[tuple[EngineClient, EngineLost]]


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_LOST_FIRST_S", 0.0)


@pytest.fixture
async def place(anyio_backend: str) -> AsyncIterator[Place]:
    """Mode `auto`: vLLM is first for extraction, Ollama for chat."""
    del anyio_backend
    async with Place(mode=Mode.AUTO).open() as place:
        yield place


@pytest.fixture
def losses() -> Losses:
    return []


@pytest.fixture
def calls(place: Place, losses: Losses) -> Calls:
    async def report(client: EngineClient, error: EngineLost) -> None:
        losses.append((client, error))

    return Calls(place.admission, SuspectsHere(), timeout_s=60.0, report_lost=report)


async def asking(calls: Calls, task_type: TaskType = EXTRACTION) -> asyncio.Task[CallOutcome]:
    def usable(_: Completion) -> Status:
        return Status.OK

    return await begun(calls.run(task_type, CALL_IDS(), REQUEST, usable))


async def test_no_call_goes_to_a_fenced_engine_and_the_reason_is_the_controllers(place: Place) -> None:
    place.set_control(VLLM, DRAINING)
    place.set_control(OLLAMA, replace(DRAINING, phase=Phase.STARTING))
    waiting = call(place, EXTRACTION)
    await settled()
    assert waiting.waits
    assert place.admission.waiting == {"waits for vLLM: mode ollama; waits for Ollama: starting": 1}
    place.set_control(OLLAMA, OPEN)
    await settled()
    assert waiting.engine is OLLAMA
    assert waiting.admitted is not None
    assert waiting.admitted.reason == "vLLM is first for extraction in mode auto but mode ollama; fell back to Ollama"


async def test_a_fence_that_no_push_told_of_refuses_the_call_which_is_decided_anew(place: Place) -> None:
    first = call(place, EXTRACTION)
    await settled()
    assert first.engine is VLLM
    place.controls[VLLM] = DRAINING
    place.slots.fenced.add(VLLM)
    second = call(place, EXTRACTION)
    await settled()
    place.push()  # it is read again a moment later
    await settled()
    assert second.engine is OLLAMA
    assert first.runs


async def test_a_call_in_flight_is_closed_and_ends_on_the_other_engine_with_one_attempt(
    place: Place, calls: Calls, losses: Losses
) -> None:
    task = await asking(calls)
    asked = await place.asked(VLLM)
    place.set_control(VLLM, DRAINING)
    await settled()
    assert not asked.closed
    place.set_control(VLLM, CLOSING)
    await settled()
    assert asked.closed
    (await place.asked(OLLAMA)).answer()
    outcome = await task
    assert (outcome.status, outcome.engine, outcome.attempts) == (Status.OK, OLLAMA, 1)
    assert [error.down or error.crashed for _, error in losses] == [False]
    await given_back(place)
    assert place.slots.count(place.engines[VLLM][0].url) == 0
    assert place.slots.breakers[place.engines[VLLM][0].url] == CLOSED


async def test_closing_says_nothing_of_the_engine_though_its_breaker_was_about_to_open(place: Place, calls: Calls) -> None:
    url = place.engines[VLLM][0].url
    place.slots.breakers[url] = replace(CLOSED, failed=("one", "two"))
    task = await asking(calls)
    await place.asked(VLLM)
    place.set_control(VLLM, CLOSING)
    await given_back(place)
    assert place.slots.breakers[url].failed == ("one", "two")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_closed_call_waits_until_the_engine_is_open_again(place: Place, calls: Calls) -> None:
    place.set_mode(Mode.VLLM)
    task = await asking(calls, CHAT)
    await place.asked(VLLM)
    place.set_control(VLLM, CLOSING)
    await settled()
    assert place.admission.waiting == {"waits for vLLM: mode ollama": 1}
    place.set_control(VLLM, OPEN)
    (await place.asked(VLLM)).answer()
    assert (await task).attempts == 1


async def test_a_call_that_is_closed_before_it_asks_gets_no_time(place: Place) -> None:
    caller = call(place, EXTRACTION)
    await settled()
    assert caller.admitted is not None
    caller.admitted.close()
    limit = caller.admitted.limit(FOR_EVER_S)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5), limit:
            await caller.done.wait()
    assert limit.expired()


async def test_a_call_that_is_closed_after_its_answer_keeps_it(place: Place) -> None:
    caller = call(place, EXTRACTION)
    await settled()
    assert caller.admitted is not None
    async with caller.admitted.limit(FOR_EVER_S):
        pass
    caller.admitted.close()
    assert caller.runs


async def test_calls_of_the_other_engine_go_on(place: Place, calls: Calls) -> None:
    task = await asking(calls, CHAT)
    asked = await place.asked(OLLAMA)
    place.set_control(VLLM, CLOSING)
    await settled()
    assert not asked.closed
    asked.answer()
    assert (await task).engine is OLLAMA


async def test_a_call_that_was_admitted_in_the_instant_of_the_closing_is_closed_as_well(place: Place, calls: Calls) -> None:
    place.ledger.answers.clear()
    task = await asking(calls)
    await settled()
    place.set_control(VLLM, CLOSING)
    place.ledger.answers.set()
    await given_back(place)
    assert place.slots.count(place.engines[VLLM][0].url, Lane.BULK) == 0
    assert all(asked.closed for asked in place.engines[VLLM][0].asked)
    (await place.asked(OLLAMA)).answer()
    assert (await task).attempts == 1
