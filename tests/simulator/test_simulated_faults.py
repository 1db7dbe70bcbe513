import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from simulated import CHAT, HELLO, Simulated, StillClock, passing, simulated, until

pytestmark = pytest.mark.anyio

TEXT = "You said: Hello there.\nThis is a simulator, not a language model. It repeats what it was told."


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["vllm", "ollama"])
async def sim(request: pytest.FixtureRequest) -> AsyncIterator[Simulated]:
    async with simulated(request.param, record=True) as running:
        yield running


@pytest.fixture
async def vllm() -> AsyncIterator[Simulated]:
    async with simulated("vllm") as running:
        yield running


@pytest.fixture
async def ollama() -> AsyncIterator[Simulated]:
    async with simulated("ollama") as running:
        yield running


def text_of(sim: Simulated, answer: Any) -> str:
    return str((answer["choices"][0] if sim.engine == "vllm" else answer)["message"]["content"])


async def received(sim: Simulated) -> tuple[bytes, type[Exception] | None]:
    """What a stream gave, and how reading it failed."""
    body = b""
    async with sim.http.post(sim.running.url + CHAT[sim.engine], json=HELLO | {"stream": True}) as response:
        try:
            async for part in response.content:
                body += part
        except aiohttp.ClientError as error:
            return body, type(error)
    return body, None


async def test_a_behaviour_is_shown_until_it_is_reset(sim: Simulated) -> None:
    await sim.fault(slow_s=0.5, times=3)
    assert (await sim.request("GET", "/_sim/behaviour")).json == {"slow_s": 0.5, "times": 3}
    await sim.fault()
    assert (await sim.request("GET", "/_sim/behaviour")).json == {}


@pytest.mark.parametrize("body", [b'{"hnag": true}', b'{"error_status": 200}', b"nonsense"])
async def test_a_behaviour_that_does_not_exist_is_refused(sim: Simulated, body: bytes) -> None:
    reply = await sim.request("POST", "/_sim/behaviour", data=body)
    assert reply.status == 422
    assert reply.json["error"]


async def test_an_error_is_answered_in_the_engines_form(sim: Simulated) -> None:
    await sim.fault(error_status=503, error_message="out of order")
    reply = await sim.chat()
    error = reply.json["error"]
    assert (reply.status, error["message"] if sim.engine == "vllm" else error) == (503, "out of order")


async def test_errors_come_every_so_many_calls(sim: Simulated) -> None:
    await sim.fault(error_status=500, error_every=3)
    assert [(await sim.chat()).status for _ in range(7)] == [200, 200, 500, 200, 200, 500, 200]


async def test_errors_come_at_a_rate(sim: Simulated) -> None:
    await sim.fault(error_status=500, error_rate=0.5)
    statuses = [(await sim.chat()).status for _ in range(60)]
    assert 15 < statuses.count(500) < 45


async def test_a_behaviour_for_some_calls_ends_by_itself(sim: Simulated) -> None:
    await sim.fault(error_status=500, times=2)
    assert [(await sim.chat()).status for _ in range(3)] == [500, 500, 200]


async def test_a_scripted_answer_replaces_the_text_even_by_nothing(sim: Simulated) -> None:
    for scripted in ("something else", ""):
        await sim.fault(answer=scripted)
        assert text_of(sim, (await sim.chat()).json) == scripted


async def test_a_hanging_call_holds_its_slot_until_the_client_leaves(sim: Simulated) -> None:
    await sim.fault(hang=True)
    call = asyncio.create_task(sim.chat())
    await until(lambda: sim.running.stats.running == 1)
    call.cancel()
    await until(lambda: sim.running.stats.in_flight == 0)
    assert sim.running.stats.aborted == 1


async def test_a_slow_call_takes_so_much_longer() -> None:
    clock = StillClock()
    async with simulated("vllm", clock=clock) as sim:
        await sim.fault(slow_s=30)
        call = asyncio.create_task(sim.chat())
        await until(lambda: clock.timers == 1)
        assert not call.done()
        await passing(clock, call)
        assert clock.time() >= 30


async def test_a_dropped_stream_gives_its_first_pieces_and_no_end(sim: Simulated) -> None:
    await sim.fault(drop_after_chunks=2)
    body, failure = await received(sim)
    assert failure is not None
    assert issubclass(failure, aiohttp.ClientPayloadError)
    assert b'"You "' in body
    assert b'"said"' in body
    assert b": He" not in body
    await until(lambda: sim.running.stats.in_flight == 0)
    assert sim.running.stats.aborted == 1


async def test_a_dropped_whole_answer_breaks_off(sim: Simulated) -> None:
    await sim.fault(drop_after_chunks=0)
    with pytest.raises(aiohttp.ClientPayloadError):
        await sim.chat()


async def test_a_vllm_stream_can_lack_its_end_in_three_ways(vllm: Simulated) -> None:
    await vllm.fault(end="missing")
    body, failure = await received(vllm)
    assert (failure, b"[DONE]" in body, b'"finish_reason":"' in body) == (None, False, False)
    await vllm.fault(end="unfinished")
    body, _ = await received(vllm)
    assert (body.endswith(b"data: [DONE]\n\n"), b'"finish_reason":"' in body) == (True, False)
    await vllm.fault(end="error")
    *_, error, done, _ = (await received(vllm))[0].split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["type"] == "InternalServerError"
    assert done == b"data: [DONE]"


async def test_a_whole_vllm_answer_without_its_end_is_an_error_or_says_no_reason(vllm: Simulated) -> None:
    await vllm.fault(end="error")
    assert (await vllm.chat()).status == 500
    await vllm.fault(end="missing")
    assert (await vllm.chat()).json["choices"][0]["finish_reason"] is None


async def test_an_ollama_stream_can_lack_its_end_in_two_ways(ollama: Simulated) -> None:
    await ollama.fault(end="missing")
    body, failure = await received(ollama)
    assert (failure, b'"done":true' in body) == (None, False)
    await ollama.fault(end="error")
    *_, last = (await received(ollama))[0].splitlines()
    assert list(json.loads(last)) == ["error"]


async def test_a_whole_ollama_answer_without_its_end_is_an_error_or_not_done(ollama: Simulated) -> None:
    await ollama.fault(end="error")
    assert (await ollama.chat()).status == 500
    await ollama.fault(end="missing")
    assert (await ollama.chat()).json["done"] is False


async def test_a_finish_can_be_said_of_a_cut_answer(vllm: Simulated) -> None:
    await vllm.fault(finish="abort")
    reply = await vllm.chat()
    assert reply.json["choices"][0]["finish_reason"] == "abort"
    assert TEXT.startswith(text_of(vllm, reply.json))
    assert text_of(vllm, reply.json) != TEXT


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_thoughts_come_under_the_name_asked_for(vllm: Simulated, name: str) -> None:
    await vllm.fault(reasoning="Hm, yes.", reasoning_field=name)
    message = (await vllm.chat()).json["choices"][0]["message"]
    assert (message[name], message["content"]) == ("Hm, yes.", TEXT)
    body, _ = await received(vllm)
    assert f'"{name}":"Hm, "'.encode() in body


async def test_ollama_thinks_in_its_own_field(ollama: Simulated) -> None:
    await ollama.fault(reasoning="Hm, yes.")
    assert (await ollama.chat()).json["message"] == {"role": "assistant", "content": TEXT, "thinking": "Hm, yes."}


async def test_a_truncated_prompt_is_told_by_its_count_only(ollama: Simulated) -> None:
    await ollama.fault(truncated_prompt=3)
    reply = await ollama.chat()
    assert (reply.status, reply.json["prompt_eval_count"]) == (200, 3)


async def test_garbage_is_no_json_at_all(sim: Simulated) -> None:
    await sim.fault(garbage=True)
    reply = await sim.chat()
    assert reply.status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(reply.body)


async def test_health_can_be_down(sim: Simulated) -> None:
    path = "/health" if sim.engine == "vllm" else "/api/version"
    await sim.fault(health_down=True)
    assert (await sim.request("GET", path)).status == 503
    await sim.fault()
    assert (await sim.request("GET", path)).status == 200


async def test_an_engine_put_to_sleep_answers_once_it_wakes(vllm: Simulated) -> None:
    await vllm.fault(asleep=True)
    assert (await vllm.request("GET", "/is_sleeping")).json == {"is_sleeping": True}
    assert (await vllm.request("GET", "/health")).status == 200
    call = asyncio.create_task(vllm.chat())
    await until(lambda: vllm.running.stats.in_flight == 1)
    assert not call.done()
    await vllm.fault()
    assert (await call).status == 200


async def test_death_closes_every_socket(sim: Simulated) -> None:
    await sim.fault(hang=True)
    held = asyncio.create_task(sim.chat())
    await until(lambda: sim.running.stats.running == 1)
    with pytest.raises(aiohttp.ClientError):
        await sim.request("POST", "/_sim/behaviour", json={"die": "now"})
    with pytest.raises(aiohttp.ClientError):
        await held
    with pytest.raises(aiohttp.ClientConnectorError):
        await sim.chat()


async def test_death_can_wait_for_the_next_call(sim: Simulated) -> None:
    await sim.fault(die="on_call")
    assert (await sim.request("GET", "/_sim/behaviour")).status == 200
    with pytest.raises(aiohttp.ClientError):
        await sim.chat()
    with pytest.raises(aiohttp.ClientConnectorError):
        await sim.chat()


async def test_every_call_is_counted_once_by_how_it_ended(sim: Simulated) -> None:
    await sim.chat()
    await sim.chat(model="nope")
    await sim.fault(hang=True)
    held = asyncio.create_task(sim.chat())
    left = asyncio.create_task(sim.chat())
    await until(lambda: sim.running.stats.running == 2)
    left.cancel()
    await until(lambda: sim.running.stats.aborted == 1)
    counts = (await sim.request("GET", "/_sim/stats")).json
    del counts["loads"]  # of models, not of calls
    assert counts == {
        "requests": 4,
        "in_flight": 1,
        "max_in_flight": 2,
        "running": 1,
        "max_running": 2,
        "waiting": 0,
        "completed": 1,
        "aborted": 1,
        "rejected": 1,
    }
    fresh = (await sim.request("POST", "/_sim/reset")).json
    assert (fresh["requests"], fresh["in_flight"], fresh["completed"], fresh["max_in_flight"]) == (1, 1, 0, 1)
    held.cancel()
    await until(lambda: sim.running.stats.in_flight == 0)


async def test_requests_are_kept_where_that_was_asked_for(sim: Simulated) -> None:
    await sim.chat(options={"num_ctx": 64})
    (kept,) = (await sim.request("GET", "/_sim/requests")).json
    assert kept["messages"] == HELLO["messages"]
    await sim.request("POST", "/_sim/reset")
    assert (await sim.request("GET", "/_sim/requests")).json == []


async def test_requests_are_not_kept_otherwise(vllm: Simulated) -> None:
    await vllm.chat()
    assert (await vllm.request("GET", "/_sim/requests")).status == 404
    assert vllm.running._machine.requests.all() == []
