"""Calls of jobs that stay on one engine: they wait for it, and hold up nobody."""

from collections.abc import AsyncIterator

import pytest
from dispatch_place import Place, call
from settling import settled

from aegis_workers.engines.base import Readiness
from aegis_workers.errors import ConfigurationError
from aegis_workers.routing import Engine, Mode, TaskType

pytestmark = pytest.mark.anyio

VLLM, OLLAMA = Engine.VLLM, Engine.OLLAMA
EXTRACTION = TaskType.EXTRACTION


@pytest.fixture
async def place(anyio_backend: str) -> AsyncIterator[Place]:
    """Three calls fit on vLLM and two on Ollama."""
    del anyio_backend
    async with Place(mode=Mode.VLLM).open() as place:
        yield place


async def test_a_call_whose_job_stays_on_an_engine_that_is_away_waits_and_holds_up_nobody(place: Place) -> None:
    place.set_state(VLLM, Readiness.STARTING)
    stays = call(place, EXTRACTION, only=VLLM)
    await settled()
    goes, also = call(place, EXTRACTION), call(place, EXTRACTION, only=OLLAMA)
    await settled()
    assert (stays.waits, goes.engine, also.engine) == (True, OLLAMA, OLLAMA)
    assert place.admission.waits_for(EXTRACTION, VLLM) == "the job stays on vLLM and waits for vLLM: starting"
    place.set_state(VLLM, Readiness.READY)
    await settled()
    assert stays.engine is VLLM


async def test_calls_that_wait_for_any_engine_do_not_hold_up_who_stays_on_one() -> None:
    async with Place(mode=Mode.OLLAMA).open() as place:
        place.set_state(OLLAMA, Readiness.UNAVAILABLE, "refused")
        waits = call(place, EXTRACTION)
        await settled()
        stays = call(place, EXTRACTION, only=VLLM)
        place.set_mode(Mode.AUTO)
        place.set_state(VLLM, Readiness.READY)
        await settled()
        assert (waits.engine, stays.engine) == (VLLM, VLLM)


async def test_a_mode_that_does_not_use_the_engine_of_a_job_makes_it_wait(place: Place) -> None:
    place.set_mode(Mode.OLLAMA)
    stays = call(place, EXTRACTION, only=VLLM)
    await settled()
    assert stays.waits
    assert place.admission.waits_for(EXTRACTION, VLLM) == "the job stays on vLLM, which mode ollama does not use for extraction"
    place.set_mode(Mode.AUTO)
    await settled()
    assert stays.admitted is not None
    assert (stays.engine, stays.admitted.mode, stays.admitted.reason) == (VLLM, Mode.AUTO, "the job stays on vLLM")


async def test_a_call_whose_job_stays_on_an_engine_that_is_not_configured_fails_at_once() -> None:
    async with Place(mode=Mode.VLLM, replicas={OLLAMA: 0}).open() as place:
        stays = call(place, EXTRACTION, only=OLLAMA)
        await settled()
        assert isinstance(stays.task.exception(), ConfigurationError)


async def test_slots_go_to_who_waited_longest_whether_its_job_stays_or_not(place: Place) -> None:
    order: list[int] = []
    callers = [call(place, EXTRACTION, number, order, only=VLLM if number % 2 else None) for number in range(12)]
    for number in range(12):
        await settled()
        callers[number].done.set()
    await settled()
    assert order == list(range(12))
