"""Documents that are delivered more than once."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from dispatch_place import Place
from kept_answers import KeptAnswers
from settling import begun, ended, settled
from suspects_here import SuspectsHere

from aegis_workers.completion import Completion, Finish
from aegis_workers.dispatch import answers, inputs
from aegis_workers.dispatch.calls import CallOutcome, Calls
from aegis_workers.dispatch.delivery import Delivery
from aegis_workers.dispatch.documents import Documents
from aegis_workers.dispatch.inputs import BatchItem
from aegis_workers.engines.base import EngineClient
from aegis_workers.errors import EngineLost, WaitedTooLong
from aegis_workers.outcome import Problem, Status
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings

pytestmark = pytest.mark.anyio

SETTINGS = Settings(_env_file=None)
PLAN = inputs.extraction_plan({"type": "object", "properties": {"n": {"type": "integer"}}}, None, SETTINGS)
ITEMS = [BatchItem(custom_id=str(number), text=f"text {number}") for number in range(3)]
FIRST, SECOND = Delivery(task_id="t"), Delivery(task_id="t", again=True)
SUSPECT = Delivery(task_id="t", again=True, deaths=2)


@pytest.fixture
async def place(anyio_backend: str) -> AsyncIterator[Place]:
    del anyio_backend
    async with Place(mode=Mode.VLLM).open() as place:
        yield place


async def nobody(_client: EngineClient, _error: EngineLost) -> None:
    """Nobody else has to know."""


def documents(place: Place, kept: KeptAnswers, suspects: SuspectsHere | None = None) -> Documents:
    calls = Calls(place.admission, suspects or SuspectsHere(), timeout_s=60, report_lost=nobody)
    return Documents(calls, SETTINGS, kept)


async def test_what_an_earlier_delivery_was_told_is_not_asked_again(place: Place) -> None:
    kept = KeptAnswers()
    first = await begun(documents(place, kept).extract_batch(ITEMS, PLAN, 60, FIRST))
    (engine,) = place.engines[Engine.VLLM]
    engine.open[1].answer('{"n": 1}')
    await settled()
    await ended(first)
    second = await begun(documents(place, kept).extract_batch(ITEMS, PLAN, 60, SECOND))
    assert len(engine.open) == 2
    for asked in list(engine.open):
        asked.answer('{"n": 2}')
    lines = (await second)["results"]
    assert [line["data"]["n"] for line in lines] == [2, 1, 2]
    assert [line["status"] for line in lines] == ["ok"] * 3


async def test_a_first_delivery_asks_nobody_for_earlier_answers(place: Place) -> None:
    kept = KeptAnswers()
    kept.keep("t", "0.0", "not even JSON")
    task = await begun(documents(place, kept).extract("text", PLAN, 60, FIRST))
    (engine,) = place.engines[Engine.VLLM]
    engine.open[0].answer('{"n": 1}')
    assert (await task)["data"] == {"n": 1}


async def test_a_batch_that_waited_too_long_lets_its_calls_in_flight_end_and_keeps_their_answers() -> None:
    kept = KeptAnswers()
    async with Place(mode=Mode.VLLM, limits={Engine.VLLM: 1, Engine.OLLAMA: 1}, longest_wait_s=0.05).open() as place:
        (engine,) = place.engines[Engine.VLLM]
        task = await begun(documents(place, kept).extract_batch(ITEMS, PLAN, 60, FIRST))
        await asyncio.sleep(0.2)
        (asked,) = engine.open
        assert not task.done()
        asked.answer('{"n": 1}')
        with pytest.raises(WaitedTooLong):
            await task
    assert list(kept.kept["t"]) == ["0.0"]


async def test_the_items_of_a_message_that_saw_two_workers_die_run_one_at_a_time(place: Place) -> None:
    suspects = SuspectsHere()
    task = await begun(documents(place, KeptAnswers(), suspects).extract_batch(ITEMS, PLAN, 60, SUSPECT))
    (engine,) = place.engines[Engine.VLLM]
    for number in range(3):
        assert suspects.seen == [("t", item) for item in range(number + 1)]
        (asked,) = engine.open
        asked.answer('{"n": 1}')
        await settled()
    assert [line["status"] for line in (await task)["results"]] == ["ok"] * 3


async def test_an_item_that_was_set_aside_has_an_outcome_and_does_not_hold_up_the_others(place: Place) -> None:
    kept = KeptAnswers()
    kept.keep("t", "aside:1", "it killed three workers")
    task = await begun(documents(place, kept).extract_batch(ITEMS, PLAN, 60, SUSPECT))
    (engine,) = place.engines[Engine.VLLM]
    for _ in range(2):
        engine.open[0].answer('{"n": 1}')
        await settled()
    lines = (await task)["results"]
    assert [line["status"] for line in lines] == ["ok", "failed", "ok"]
    assert lines[1]["error"] == {"class": "poison", "message": "it killed three workers"}


OUTCOMES = [
    CallOutcome(
        status=Status.FAILED,
        engine=Engine.OLLAMA,
        mode=Mode.AUTO,
        reason="so",
        attempts=4,
        problem=Problem(error_class="transient", message="no"),
    ),
    CallOutcome(
        status=Status.OK,
        engine=Engine.VLLM,
        mode=Mode.VLLM,
        reason="so",
        attempts=1,
        elapsed_s=0.5,
        completion=Completion(text="{}", finish=Finish.STOP, prompt_tokens=3),
    ),
]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_comes_back_as_it_was_kept(outcome: CallOutcome) -> None:
    assert answers.decode(answers.encode(outcome)) == outcome
