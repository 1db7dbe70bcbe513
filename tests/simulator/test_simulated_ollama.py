import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import ollama
import pytest
from simulated import CHAT, HELLO, Simulated, StillClock, passing, simulated, until

from aegis_workers.simulator.ollama import durations

pytestmark = pytest.mark.anyio

ROUTE = CHAT["ollama"]
LOAD = {"model": "sim", "messages": []}
BUSY = "server busy, please try again.  maximum pending requests exceeded"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sim() -> AsyncIterator[Simulated]:
    async with simulated("ollama", models=("sim", "deep-think"), context_tokens=256) as running:
        yield running


@pytest.fixture
async def client(sim: Simulated) -> AsyncIterator[ollama.AsyncClient]:
    official = ollama.AsyncClient(sim.running.url)
    yield official
    await official.close()  # type: ignore[no-untyped-call]  # the client's own lack


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


def lines(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.splitlines()]


async def loaded(sim: Simulated) -> list[str]:
    return [model["name"] for model in (await sim.request("GET", "/api/ps")).json["models"]]


async def test_the_official_client_gets_a_whole_answer(client: ollama.AsyncClient) -> None:
    answer = await client.chat(model="sim", messages=[{"role": "user", "content": "Hello there."}])
    assert answer.message.content == (
        "You said: Hello there.\nThis is a simulator, not a language model. It repeats what it was told."
    )
    assert (answer.done, answer.done_reason, answer.eval_count) == (True, "stop", 24)


async def test_the_official_client_streams_what_the_whole_answer_says(client: ollama.AsyncClient) -> None:
    messages = [{"role": "user", "content": "Hello there."}]
    whole = await client.chat(model="sim", messages=messages)
    parts = [part async for part in await client.chat(model="sim", messages=messages, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count == len(parts) - 1


async def test_the_official_client_generates_from_a_prompt(client: ollama.AsyncClient) -> None:
    answer = await client.generate(model="sim", prompt="Hello there.")
    assert answer.response is not None
    assert answer.response.startswith("You said: Hello there.")
    assert answer.context


async def test_the_official_client_raises_the_error_it_has(client: ollama.AsyncClient) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
        await client.chat(model="nope", messages=[{"role": "user", "content": "Hello"}])
    assert caught.value.status_code == 404


async def test_the_official_client_lists_shows_and_looks_at_models(client: ollama.AsyncClient) -> None:
    assert [model.model for model in (await client.list()).models] == ["sim:latest", "deep-think:latest"]
    assert (await client.show("deep-think")).capabilities == ["completion", "thinking"]
    assert (await client.ps()).models == []


async def test_a_stream_is_lines_of_json_with_metrics_in_the_last(sim: Simulated) -> None:
    reply = await sim.chat(stream=True, options={"num_predict": 2})
    one, two, end = lines(reply.body)
    assert reply.headers["Content-Type"] == "application/x-ndjson"
    assert one["message"] == {"role": "assistant", "content": "You "}
    assert (one["done"], two["done"], end["done"], end["done_reason"]) == (False, False, True, "length")
    assert "eval_count" not in two
    assert (end["eval_count"], end["prompt_eval_count"]) == (2, 7)
    assert end["total_duration"] >= end.get("load_duration", 0)


async def test_metrics_of_zero_are_absent(sim: Simulated) -> None:
    await sim.fault(answer="", truncated_prompt=0)
    reply = await sim.chat()
    assert "eval_count" not in reply.json
    assert "prompt_eval_count" not in reply.json


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"model": "nope"}, 404, "model 'nope' not found"),
        ({"model": ""}, 400, "model is required"),
        ({"top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
        ({"keep_alive": "-1"}, 400, 'time: missing unit in duration "-1"'),
        ({"keep_alive": "abc"}, 400, 'time: invalid duration "abc"'),
        ({"keep_alive": True}, 400, "Unsupported type: 'bool'"),
        ({"format": "xml"}, 500, 'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'),
        ({"think": True}, 400, '"sim" does not support thinking'),
        ({"messages": "text"}, 400, "json: cannot unmarshal string into Go struct field ChatRequest.messages"),
        (
            {"messages": [{"role": "user", "content": "x" * 9000}], "truncate": False},
            400,
            "the prompt is longer than the context",
        ),
    ],
)
async def test_a_bad_request_is_refused_in_ollamas_words(
    sim: Simulated, changes: dict[str, Any], status: int, words: str
) -> None:
    reply = await sim.chat(**changes)
    assert reply.status == status
    assert reply.json["error"].startswith(words)
    assert sim.running.stats.rejected == sim.running.stats.requests == 1


async def test_a_schema_that_cannot_be_compiled_is_the_runners_own_400(sim: Simulated) -> None:
    reply = await sim.chat(format={"type": "nonsense"})
    assert reply.status == 400
    assert json.loads(reply.json["error"])["error"]["type"] == "invalid_request_error"


async def test_a_missing_body_is_told(sim: Simulated) -> None:
    reply = await sim.request("POST", ROUTE)
    assert (reply.status, reply.json) == (400, {"error": "missing request body"})


async def test_the_root_says_that_ollama_is_running(sim: Simulated) -> None:
    assert (await sim.request("GET", "/")).body == b"Ollama is running"
    assert (await sim.request("HEAD", "/")).status == 200
    assert (await sim.request("GET", "/api/version")).json == {"version": "0.33.0"}


async def test_a_path_that_is_not_there_is_told_in_the_routers_words(sim: Simulated) -> None:
    missing, wrong = await sim.request("GET", "/health"), await sim.request("GET", ROUTE)
    assert (missing.status, missing.body) == (404, b"404 page not found")
    assert wrong.status == 405


@pytest.mark.parametrize(
    ("host", "status"), [("evil.example", 403), ("localhost:11434", 200), ("box.local", 200), ("10.0.0.7", 200), ("8.8.8.8", 403)]
)
async def test_on_loopback_only_local_hosts_are_answered(sim: Simulated, host: str, status: int) -> None:
    reply = await sim.request("GET", "/api/version", headers={"Host": host})
    assert reply.status == status
    assert reply.body == b"" or status == 200


async def test_structured_output_follows_the_format(sim: Simulated) -> None:
    assert (await sim.chat(format={"enum": ["yes", "no"]})).json["message"]["content"] == '"yes"'
    assert json.loads((await sim.chat(format="json")).json["message"]["content"]) == {"entities": [], "relations": []}
    assert (await sim.chat(format="")).json["message"]["content"].startswith("You said")


async def test_a_model_that_can_think_does_so_unless_told_not_to(sim: Simulated) -> None:
    thought = (await sim.chat(model="deep-think")).json
    quiet = (await sim.chat(model="deep-think", think=False)).json
    assert thought["message"]["thinking"]
    assert "thinking" not in quiet["message"]
    assert thought["message"]["content"] == quiet["message"]["content"]
    assert thought["eval_count"] > quiet["eval_count"]


async def test_a_long_prompt_is_silently_truncated_and_only_its_count_tells(sim: Simulated) -> None:
    long = [{"role": "user", "content": "word " * 900}]
    reply = await sim.chat(messages=long)
    assert reply.status == 200
    assert reply.json["prompt_eval_count"] == 128
    roomy = await sim.chat(messages=long, options={"num_ctx": 4096})
    assert roomy.json["prompt_eval_count"] == 1129


async def test_old_messages_are_dropped_before_the_system_and_the_last(sim: Simulated) -> None:
    system = {"role": "system", "content": "Be brief."}
    old = [{"role": "user", "content": "x" * 600}, {"role": "assistant", "content": "y" * 600}]
    last = {"role": "user", "content": "And now?"}
    reply = await sim.chat(messages=[system, *old, last])
    kept = await sim.chat(messages=[system, old[1], last])
    assert reply.json["prompt_eval_count"] == kept.json["prompt_eval_count"] < 256


async def test_an_empty_conversation_loads_and_answers_one_object_even_to_a_stream(sim: Simulated) -> None:
    reply = await sim.request("POST", ROUTE, json=LOAD | {"stream": True})
    assert (reply.json["done"], reply.json["done_reason"], reply.json["message"]["content"]) == (True, "load", "")
    assert "total_duration" not in reply.json
    assert await loaded(sim) == ["sim:latest"]
    assert sim.running.stats.requests == 0


async def test_keep_alive_zero_unloads_whether_loaded_or_not(sim: Simulated) -> None:
    async def unload() -> None:
        reply = await sim.request("POST", ROUTE, json=LOAD | {"keep_alive": 0})
        assert (reply.status, reply.json["done_reason"]) == (200, "unload")

    await unload()
    await sim.chat()
    assert await loaded(sim) == ["sim:latest"]
    await unload()
    assert await loaded(sim) == []


async def test_an_idle_model_leaves_after_its_keep_alive_and_each_call_restarts_it(clock: StillClock) -> None:
    async with simulated("ollama", clock=clock) as sim:
        await sim.chat(keep_alive="2m")
        await clock.advance(119)
        await sim.chat()  # keeps what was asked for last
        await clock.advance(119)
        assert await loaded(sim) == ["sim:latest"]
        await clock.advance(1)
        assert await loaded(sim) == []


async def test_a_call_holds_the_model_beyond_the_end_of_its_keep_alive(clock: StillClock) -> None:
    async with simulated("ollama", clock=clock, tokens_per_s=1) as sim:
        await sim.fault(answer="")
        await sim.chat(keep_alive="2s")
        await sim.fault()
        call = asyncio.create_task(sim.chat())
        await until(lambda: sim.running.stats.running == 1)
        await clock.advance(10)
        assert await loaded(sim) == ["sim:latest"]
        assert not call.done()
        await clock.advance(100)
        assert (await call).json["done"]


@pytest.mark.parametrize("for_ever", [-1, "-1m"])
async def test_a_negative_keep_alive_is_for_ever(clock: StillClock, for_ever: Any) -> None:
    async with simulated("ollama", clock=clock) as sim:
        await sim.chat(keep_alive=for_ever)
        await clock.advance(10**6)
        (model,) = (await sim.request("GET", "/api/ps")).json["models"]
        assert int(model["expires_at"][:4]) > 2300


async def test_a_model_that_serves_is_unloaded_only_afterwards(clock: StillClock) -> None:
    async with simulated("ollama", clock=clock, tokens_per_s=1) as sim:
        call = asyncio.create_task(sim.chat())
        await until(lambda: clock.timers == 1)
        await sim.request("POST", ROUTE, json=LOAD | {"keep_alive": 0})
        await clock.advance(1)
        assert await loaded(sim) == ["sim:latest"]
        await clock.advance(1000)
        assert (await call).json["done"]
        await clock.advance(0)
        assert await loaded(sim) == []


async def test_the_first_call_waits_for_the_load_and_says_how_long(clock: StillClock) -> None:
    async with simulated("ollama", clock=clock, start_seconds=7) as sim:
        call = asyncio.create_task(sim.chat())
        await until(lambda: clock.timers == 1)
        assert await loaded(sim) == []
        await clock.advance(7)
        assert (await call).json["load_duration"] == 7_000_000_000
        assert "load_duration" not in (await sim.chat()).json


async def test_another_num_ctx_loads_the_model_anew(clock: StillClock) -> None:
    async with simulated("ollama", clock=clock, start_seconds=7, keep_alive_s=-1, context_tokens=512) as sim:

        async def load_s(**options: float) -> float:
            call = asyncio.create_task(sim.chat(options=options))
            await passing(clock, call)
            return float(call.result().json.get("load_duration", 0)) / 1e9

        assert [await load_s(), await load_s(num_ctx=512), await load_s(temperature=1)] == [7, 0, 0]
        assert await load_s(num_ctx=1024) == 7
        assert sim.running.stats.loads == 2
        (model,) = (await sim.request("GET", "/api/ps")).json["models"]
        assert model["context_length"] == 1024


async def test_a_reload_waits_for_the_calls_that_the_model_serves(clock: StillClock) -> None:
    async with simulated("ollama", clock=clock, tokens_per_s=1) as sim:
        serving = asyncio.create_task(sim.chat())
        await until(lambda: sim.running.stats.running == 1)
        other = asyncio.create_task(sim.chat(options={"num_ctx": 1024}))
        await until(lambda: sim.running.stats.in_flight == 2)
        await passing(clock, serving)
        await passing(clock, other)
        assert serving.result().json["eval_duration"] == 24_000_000_000
        assert other.result().json["load_duration"] > 20_000_000_000


async def test_more_calls_than_may_wait_for_a_load_get_503_with_two_spaces(clock: StillClock) -> None:
    async with simulated("ollama", clock=clock, start_seconds=7, max_queue=1) as sim:
        calls = [asyncio.create_task(sim.chat()) for _ in range(2)]
        await until(lambda: sim.running.stats.in_flight == 2)
        reply = await sim.chat()
        assert (reply.status, reply.json) == (503, {"error": BUSY})
        await clock.advance(7)
        assert [(await call).status for call in calls] == [200, 200]


async def test_a_loaded_model_refuses_nobody_and_runs_no_more_than_its_slots() -> None:
    async with simulated("ollama", slots=4, max_queue=0, call_seconds=0.001) as sim:
        await sim.chat()
        replies = await asyncio.gather(*(sim.chat() for _ in range(40)))
        assert {reply.status for reply in replies} == {200}
        assert sim.running.stats.max_running == 4


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_slot(*, stream: bool) -> None:
    async with simulated("ollama", slots=1, tokens_per_s=1) as sim:
        leaver = asyncio.create_task(sim.chat(stream=stream))
        await until(lambda: sim.running.stats.running == 1)
        waiter = asyncio.create_task(sim.chat(stream=stream))
        await until(lambda: sim.running.stats.waiting == 1)
        waiter.cancel()
        await until(lambda: sim.running.stats.in_flight == 1)
        leaver.cancel()
        await until(lambda: sim.running.stats.in_flight == 0)
        assert (sim.running.stats.running, sim.running.stats.aborted) == (0, 2)


async def test_stopping_closes_the_connections_of_calls_in_flight() -> None:
    async with simulated("ollama", tokens_per_s=1) as sim, httpx.AsyncClient() as http:
        call = asyncio.create_task(http.post(sim.running.url + ROUTE, json=HELLO | {"stream": False}))
        await until(lambda: sim.running.stats.running == 1)
        await sim.running.stop()
        with pytest.raises(httpx.TransportError):
            await call


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), (5, 5), (0.5, 0.5), ("5m", 300), ("1h30m", 5400), ("0", 0), ("1.5s", 1.5), (-1, math.inf), ("-1m", math.inf)],
)
def test_keep_alive_is_read_as_ollama_reads_it(value: Any, seconds: float | None) -> None:
    assert durations.keep_alive_s(value) == seconds


@pytest.mark.parametrize(("text", "words"), [("", "invalid"), ("5", "missing unit"), ("5x", "unknown unit"), ("--5s", "invalid")])
def test_a_bad_duration_is_refused_in_gos_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        durations.parse(text)
