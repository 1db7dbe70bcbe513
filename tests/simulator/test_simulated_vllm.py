import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from simulated import CHAT, HELLO, Simulated, StillClock, settled, simulated, until

pytestmark = pytest.mark.anyio

ROUTE = CHAT["vllm"]
USER = HELLO["messages"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sim() -> AsyncIterator[Simulated]:
    async with simulated("vllm", context_tokens=1024) as running:
        yield running


@pytest.fixture
async def client(sim: Simulated) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{sim.running.url}/v1", api_key="none", max_retries=0) as official:
        yield official


def events(body: bytes) -> list[Any]:
    """The events of a stream; its end mark as text."""
    data = [part.removeprefix("data: ") for part in body.decode().split("\n\n")[:-1]]
    return [part if part == "[DONE]" else json.loads(part) for part in data]


async def test_the_official_client_gets_a_whole_answer(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="sim", messages=[{"role": "user", "content": "Hello there."}])
    assert answer.choices[0].message.content == (
        "You said: Hello there.\nThis is a simulator, not a language model. It repeats what it was told."
    )
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_the_official_client_streams_what_the_whole_answer_says(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="sim", messages=[{"role": "user", "content": "Hello there."}])
    stream = await client.chat.completions.create(
        model="sim", messages=[{"role": "user", "content": "Hello there."}], stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


async def test_the_official_client_raises_the_errors_it_has_for_them(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="The model `nope` does not exist"):
        await client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "Hello"}])
    with pytest.raises(openai.BadRequestError, match="at least one message"):
        await client.chat.completions.create(model="sim", messages=[])


async def test_the_official_client_lists_the_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id for model in (await client.models.list()).data] == ["sim"]


async def test_a_stream_has_the_form_of_vllms(sim: Simulated) -> None:
    reply = await sim.chat(stream=True, max_tokens=2, request_id="abc")
    first, one, two, done = events(reply.body)
    assert reply.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert one["choices"] == [
        {"index": 0, "delta": {"content": "You "}, "logprobs": None, "finish_reason": None, "token_ids": None}
    ]
    assert two["choices"][0]["finish_reason"] == "length"
    assert {event["object"] for event in (first, one, two)} == {"chat.completion.chunk"}
    assert {event["id"] for event in (first, one, two)} == {"chatcmpl-abc"}
    assert done == "[DONE]"


async def test_the_request_id_header_becomes_the_id(sim: Simulated) -> None:
    reply = await sim.request("POST", ROUTE, json=HELLO, headers={"X-Request-Id": "mine"})
    assert reply.json["id"] == "chatcmpl-mine"


LONG = [{"role": "user", "content": "x" * 5000}]


@pytest.mark.parametrize(
    ("changes", "status", "kind", "param", "words"),
    [
        ({"model": "nope"}, 404, "NotFoundError", "model", "The model `nope` does not exist. Valid aliases: sim."),
        (
            {"messages": LONG},
            400,
            "BadRequestError",
            "input_tokens",
            "maximum context length is 1024 tokens. However, your prompt",
        ),
        (
            {"max_tokens": 100000},
            400,
            "BadRequestError",
            "max_tokens",
            "max_tokens=100000 cannot be greater than max_model_len=1024.",
        ),
        ({"max_tokens": 0}, 400, "BadRequestError", "max_tokens", "max_tokens must be at least 1, got 0."),
        ({"max_completion_tokens": -1}, 400, "BadRequestError", "max_tokens", "max_tokens must be at least 1, got -1."),
        ({"temperature": -3}, 400, "BadRequestError", "temperature", "temperature must be non-negative, got -3.0."),
        ({"messages": []}, 400, "BadRequestError", None, "Cannot apply chat template to an empty conversation."),
        ({"messages": None}, 400, "BadRequestError", None, "'NoneType' object is not iterable"),
        ({"messages": "Hello."}, 400, "Bad Request", "body.messages", "1 validation error:\n  {'type': 'list_type', 'loc': "),
        ({"priority": "high"}, 400, "Bad Request", "body.priority", "1 validation error:\n  {'type': 'int_parsing', 'loc': "),
        ({"response_format": {"type": "json_schema"}}, 400, "BadRequestError", "response_format", "field must be provided."),
        ({"response_format": {"type": "zzz"}}, 400, "Bad Request", "body.response_format.type", "1 validation error:"),
        (
            {"structured_outputs": {"json": {"type": "nonsense"}}},
            400,
            "BadRequestError",
            None,
            "Grammar error: Invalid type: nonsense",
        ),
    ],
)
async def test_a_bad_request_is_refused_in_vllms_words(
    sim: Simulated, changes: dict[str, Any], status: int, kind: str, param: str | None, words: str
) -> None:
    reply = await sim.chat(**changes)
    error = reply.json["error"]
    assert (reply.status, error["type"], error["param"], error["code"]) == (status, kind, param, status)
    assert words in error["message"]
    assert sim.running.stats.rejected == sim.running.stats.requests == 1


async def test_a_body_that_is_no_json_is_refused(sim: Simulated) -> None:
    reply = await sim.request("POST", ROUTE, data=b"{nonsense")
    assert (reply.status, reply.json["error"]["type"]) == (400, "Bad Request")


async def test_what_vllm_ignores_is_ignored(sim: Simulated) -> None:
    plain = await sim.chat()
    odd = await sim.chat(guided_json={"type": "object"}, nonsense=1, priority=3)
    assert odd.json["choices"] == plain.json["choices"]


async def test_an_answer_beyond_the_context_is_silently_capped(sim: Simulated) -> None:
    await sim.fault(answer="x" * 9000)
    reply = await sim.chat(max_tokens=1024)
    assert reply.json["choices"][0]["finish_reason"] == "length"
    assert reply.json["usage"]["total_tokens"] == 1024


@pytest.mark.parametrize(
    "guide",
    [
        {"structured_outputs": {"json": {"enum": ["yes", "no"]}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["yes", "no"]}}}},
    ],
)
async def test_structured_output_follows_the_schema(sim: Simulated, guide: dict[str, Any]) -> None:
    assert (await sim.chat(**guide)).json["choices"][0]["message"]["content"] == '"yes"'


async def test_structured_output_by_choice_regex_and_json_object(sim: Simulated) -> None:
    async def content(**guide: Any) -> str:
        return str((await sim.chat(**guide)).json["choices"][0]["message"]["content"])

    assert await content(structured_outputs={"choice": ["up", "down"]}) == "up"
    assert await content(structured_outputs={"regex": "^[0-9]{3}$"}) == "000"
    assert json.loads(await content(response_format={"type": "json_object"})) == {"entities": [], "relations": []}


async def test_status_routes_answer_as_vllm_does(sim: Simulated) -> None:
    for path in ("/health", "/ping"):
        reply = await sim.request("GET", path)
        assert (reply.status, reply.body) == (200, b"")
    assert (await sim.request("GET", "/version")).json == {"version": "0.32.0"}
    assert (await sim.request("GET", "/load")).json == {"server_load": 0}
    assert (await sim.request("GET", "/v1/models")).json["data"][0]["max_model_len"] == 1024


async def test_a_path_that_is_not_there_is_told_in_fastapis_words(sim: Simulated) -> None:
    missing, wrong = await sim.request("GET", "/nowhere"), await sim.request("GET", ROUTE)
    assert (missing.status, missing.json) == (404, {"detail": "Not Found"})
    assert (wrong.status, wrong.json) == (405, {"detail": "Method Not Allowed"})
    assert (await sim.request("POST", "/sleep")).status == 404
    assert (await sim.request("GET", "/is_sleeping")).status == 404


async def test_the_api_key_guards_the_prefixed_paths_only() -> None:
    async with simulated("vllm", api_key="secret") as sim:
        refused = await sim.chat()
        assert (refused.status, refused.json) == (401, {"error": "Unauthorized"})
        assert (await sim.request("GET", "/health")).status == 200
        allowed = await sim.request("POST", ROUTE, json=HELLO, headers={"Authorization": "Bearer secret"})
        assert allowed.status == 200


async def test_calls_beyond_the_queue_bound_get_503_and_are_counted() -> None:
    async with simulated("vllm", slots=1, queue_bound=2) as sim:
        await sim.fault(hang=True)
        held = [asyncio.create_task(sim.chat()) for _ in range(2)]
        await until(lambda: sim.running.stats.in_flight == 2)
        reply = await sim.chat()
        assert reply.status == 503
        assert reply.json["error"]["type"] == "Service Unavailable"
        assert "Retry-After" not in reply.headers
        metrics = (await sim.request("GET", "/metrics")).body.decode()
        assert 'vllm:admission_rejections_total{engine="0",reason="max_num_queued_reqs",model_name="sim"} 1.0' in metrics
        assert 'vllm:num_requests_running{engine="0",model_name="sim"} 1.0' in metrics
        assert 'vllm:num_requests_waiting{engine="0",model_name="sim"} 1.0' in metrics
        for call in held:
            call.cancel()
        await until(lambda: sim.running.stats.in_flight == 0)


async def test_metrics_count_what_was_answered(sim: Simulated) -> None:
    usage = (await sim.chat()).json["usage"]
    metrics = (await sim.request("GET", "/metrics")).body.decode()
    assert 'vllm:request_success_total{engine="0",finished_reason="stop",model_name="sim"} 1.0' in metrics
    assert f'vllm:generation_tokens_total{{engine="0",model_name="sim"}} {float(usage["completion_tokens"])}' in metrics
    assert f'vllm:prompt_tokens_total{{engine="0",model_name="sim"}} {float(usage["prompt_tokens"])}' in metrics
    assert 'vllm:e2e_request_latency_seconds_count{engine="0",model_name="sim"} 1.0' in metrics


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_slot_and_is_no_success(*, stream: bool) -> None:
    async with simulated("vllm", slots=1, tokens_per_s=1) as sim:
        leaver = asyncio.create_task(sim.chat(stream=stream))
        await until(lambda: sim.running.stats.running == 1)
        leaver.cancel()
        await until(lambda: sim.running.stats.in_flight == 0)
        assert sim.running.stats.aborted == 1
        metrics = (await sim.request("GET", "/metrics")).body.decode()
        assert 'vllm:request_success_total{engine="0",finished_reason="abort",model_name="sim"} 0.0' in metrics
        await sim.fault(answer="")
        assert (await sim.chat()).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_stopping_answers_calls_in_flight_with_abort_and_what_there_is(*, stream: bool) -> None:
    clock = StillClock()
    async with simulated("vllm", clock=clock, tokens_per_s=1, slots=1) as sim:
        running = asyncio.create_task(sim.chat(stream=stream))
        await until(lambda: clock.timers == 1)
        waiting = asyncio.create_task(sim.chat(stream=stream))
        await until(lambda: sim.running.stats.in_flight == 2)
        await clock.advance(3.5)
        await sim.running.stop()
        replies = [await running, await waiting]
    texts, finishes = [], []
    for reply in replies:
        assert reply.status == 200
        parts = events(reply.body)[:-1] if stream else [reply.json]
        assert not stream or events(reply.body)[-1] == "[DONE]"
        choices = [part["choices"][0] for part in parts]
        texts.append("".join((choice["delta"] if stream else choice["message"]).get("content") or "" for choice in choices))
        finishes.append(choices[-1]["finish_reason"])
    assert texts == ["You said: He", ""]
    assert finishes == ["abort", "abort"]


async def test_a_sleeping_engine_is_healthy_and_lets_calls_wait() -> None:
    async with simulated("vllm", dev_mode=True) as sim:
        slept = await sim.request("POST", "/sleep?level=1")
        assert slept.json == {"status": "sleeping", "level": 1}
        assert (await sim.request("GET", "/is_sleeping")).json == {"is_sleeping": True}
        assert (await sim.request("GET", "/health")).status == 200
        call = asyncio.create_task(sim.chat())
        await until(lambda: sim.running.stats.in_flight == 1)
        await settled()
        assert not call.done()
        assert (await sim.request("POST", "/wake_up")).json == {"status": "awake", "tags": None}
        assert (await call).json["choices"][0]["finish_reason"] == "stop"
        assert (await sim.request("POST", "/sleep?level=7")).status == 400


async def test_going_to_sleep_aborts_what_runs() -> None:
    async with simulated("vllm", dev_mode=True, tokens_per_s=1) as sim:
        call = asyncio.create_task(sim.chat())
        await until(lambda: sim.running.stats.running == 1)
        await sim.request("POST", "/pause")
        assert (await call).json["choices"][0]["finish_reason"] == "abort"
        assert (await sim.request("GET", "/is_paused")).json == {"is_paused": True}
        await sim.request("POST", "/resume")
        assert (await sim.request("GET", "/is_paused")).json == {"is_paused": False}


async def test_the_load_counts_only_where_it_is_tracked() -> None:
    async with simulated("vllm", load_tracking=True, tokens_per_s=1) as sim:
        call = asyncio.create_task(sim.chat())
        await until(lambda: sim.running.stats.in_flight == 1)
        assert (await sim.request("GET", "/load")).json == {"server_load": 1}
        call.cancel()
