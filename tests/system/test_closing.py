"""An engine that the controller wants free of calls while one hangs there: real workers, and a simulator that never answers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from installation import Installation, eventually, installed
from job_place import lines, served, texts

from aegis_workers.jobs.journal import State
from aegis_workers.routing import Engine
from aegis_workers.state import connection, engine_control
from aegis_workers.state.engine_control import Control, Phase
from aegis_workers.state.jobs import Ruling
from aegis_workers.state.leader import Leadership

VLLM, OLLAMA = Engine.VLLM, Engine.OLLAMA
DRAINING = Control(phase=Phase.DRAINING, since=1.0, reason="mode ollama", fenced=True)
CLOSING = Control(phase=Phase.DRAINING, since=1.0, reason="mode ollama: the calls there are closed", fenced=True, closing=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Installation]:
    with installed(tmp_path, "chat", "extraction", llm_engine_mode="auto") as place:
        yield place


def say(place: Installation, *controls: Control) -> None:
    """A leader says this of vLLM, one after the other."""

    async def write() -> None:
        async with connection.open_async(place.settings) as client:
            leadership = Leadership(client, "leader")
            token = await leadership.hold()
            assert token
            for control in controls:
                record = (await engine_control.read_all(client))[VLLM]
                ruling = await engine_control.write(client, token, VLLM, control, instead_of=record.written)
                assert ruling is Ruling.DONE
            await leadership.release()

    asyncio.run(write())


def test_calls_that_hang_at_an_engine_that_is_to_go_end_well_on_the_other_with_one_attempt(place: Installation) -> None:
    place.behave(VLLM, hang=True)
    single = place.send("aegis.extract", text="Ada met Charles in London.")
    items = [{"custom_id": str(number), "text": f"Ada met Charles {number} times."} for number in range(3)]
    batch = place.send("aegis.extract_batch", items=items)
    eventually(lambda: place.in_flight(VLLM) == 4)

    say(place, DRAINING, CLOSING)

    eventually(lambda: place.in_flight(VLLM) == 0)
    results = [single.get(timeout=30), *batch.get(timeout=30)["results"]]
    assert {(result["status"], result["engine"], result["attempts"]) for result in results} == {("ok", "ollama", 1)}
    assert place.stats(VLLM)["aborted"] == 4
    assert "calls.closed" in place.worker_logs()


def test_a_fenced_engine_gets_no_call_until_it_is_opened(place: Installation) -> None:
    say(place, DRAINING)
    assert place.send("aegis.extract", text="Ada met Charles.").get(timeout=30)["engine"] == "ollama"
    assert place.stats(VLLM)["requests"] <= 1  # the proof of the prober
    say(place, Control(phase=Phase.READY, since=2.0))
    assert place.send("aegis.extract", text="Ada met Charles.").get(timeout=30)["engine"] == "vllm"


@pytest.mark.timeout(120)
def test_chunks_of_a_job_that_hang_there_end_well_on_the_other_with_one_attempt(tmp_path: Path) -> None:
    with served(tmp_path, llm_engine_mode="auto") as jobs:
        place = jobs.place
        place.behave(VLLM, hang=True)
        jobs.start_controller()
        job = jobs.submit(texts(6))
        eventually(lambda: place.in_flight(VLLM) == 6)
        jobs.stop_controllers()  # the test leads, and says what becomes of the engine

        before = place.stats(OLLAMA)["completed"]
        say(place, DRAINING, CLOSING)

        eventually(lambda: place.in_flight(VLLM) == 0)
        eventually(lambda: place.stats(OLLAMA)["completed"] - before >= 6)
        jobs.start_controller()
        jobs.await_state(job, State.COMPLETED)
        found = lines(job)
        assert len(found) == 6
        assert {(line["status"], line["engine"], line["attempts"]) for line in found} == {("ok", "ollama", 1)}
