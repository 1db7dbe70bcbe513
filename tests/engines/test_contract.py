"""What every engine client does, whatever the engine.

The targets are the simulators, and real engines where their addresses are given: `AEGIS_TEST_VLLM_URL`, `AEGIS_TEST_OLLAMA_URL`
(`AEGIS_TEST_VLLM_MODEL` and its like name the model, by default the first that the engine lists; `AEGIS_TEST_VLLM_API_KEY` the
key). A test that needs a fault runs on simulators only.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import anyio
import pytest
from engine_targets import Simulate, Target, connect, connections_in_use, opened, streamed, whole

from aegis_workers.completion import Completion, CompletionRequest, Finish, Message, Sampling
from aegis_workers.engines import clients
from aegis_workers.engines.base import EngineClient, Probe, Readiness
from aegis_workers.errors import EngineBusy, EngineError, EngineLost, EngineUnreachable, RequestRefused
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings

pytestmark = pytest.mark.anyio

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": ["yes", "no"]}},
    "required": ["answer"],
    "additionalProperties": False,
}
# The likeliest answer, which for a given model is always the same.
CERTAIN = Sampling(max_tokens=64, temperature=0.0)
ASK = CompletionRequest(messages=(Message(role="user", content="Say hello to the world."),), sampling=CERTAIN)
# What no model says in a few seconds.
COUNT = "Count from one to one thousand in words. Write every single number, each on a line of its own."
LONG = CompletionRequest(messages=(Message(role="user", content=COUNT),), sampling=replace(CERTAIN, max_tokens=4000))
BOTH_WAYS = pytest.mark.parametrize("ask", [lambda client, asked: client.complete(asked), whole], ids=["complete", "stream"])
Ask = Callable[[EngineClient, CompletionRequest], Awaitable[Completion]]


@BOTH_WAYS
async def test_an_answer_comes_with_its_ending_and_its_tokens(target: Target, ask: Ask) -> None:
    answer = await ask(target.client, ASK)
    assert answer.text
    assert answer.finish in set(Finish)
    assert answer.prompt_tokens
    assert answer.completion_tokens
    assert target.client.url == target.url


@BOTH_WAYS
async def test_an_answer_that_was_cut_at_its_limit_says_so(target: Target, ask: Ask) -> None:
    answer = await ask(target.client, replace(ASK, sampling=replace(CERTAIN, max_tokens=2)))
    assert answer.finish is Finish.LENGTH
    assert answer.completion_tokens == 2


@BOTH_WAYS
async def test_an_answer_follows_its_schema(target: Target, ask: Ask) -> None:
    answer = await ask(target.client, replace(ASK, schema=SCHEMA, sampling=replace(CERTAIN, max_tokens=512)))
    assert answer.finish is Finish.STOP
    assert json.loads(answer.text)["answer"] in {"yes", "no"}


async def test_a_stream_gives_pieces_and_then_the_whole(target: Target) -> None:
    *pieces, last = await streamed(target.client, ASK)
    assert all(isinstance(piece, str) and piece for piece in pieces)
    assert isinstance(last, Completion)
    assert last.text == "".join(cast("list[str]", pieces))


async def test_a_replica_that_serves_the_model_is_ready_and_proves_it(target: Target) -> None:
    await target.client.warm_up()
    await target.client.prove()
    found = await target.client.probe()
    assert (found.readiness, found.reason, found.loaded) == (Readiness.READY, "", True)
    assert found.models
    assert found.version


@BOTH_WAYS
async def test_an_unknown_model_is_refused_and_the_cure_named(target: Target, ask: Ask) -> None:
    client = target.connect("no-such-model")
    with pytest.raises(RequestRefused, match=f"AEGIS_{target.engine.upper()}_MODEL") as caught:
        await ask(client, ASK)
    assert "no-such-model" in caught.value.words
    found = await client.probe()
    assert found.readiness is Readiness.UNAVAILABLE
    assert "no-such-model" in found.reason
    await client.aclose()


@BOTH_WAYS
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (replace(ASK, messages=()), "no messages"),
        (replace(ASK, messages=(Message(role="user", content="a secret \ud800"),)), "surrogate"),
        (replace(ASK, schema={"maximum": float("nan")}), "schema is not JSON"),
        (replace(ASK, schema={"title": "\ud800"}), "schema is not JSON"),
    ],
)
async def test_what_cannot_be_sent_is_refused(target: Target, ask: Ask, asked: CompletionRequest, words: str) -> None:
    with pytest.raises(RequestRefused, match=words) as caught:
        await ask(target.client, asked)
    assert "secret" not in str(caught.value)


@BOTH_WAYS
@pytest.mark.parametrize("text", ["a secret " * 20_000, "秘密" * 30_000], ids=["words", "Han"])
async def test_a_prompt_that_does_not_fit_is_refused_and_not_cut(target: Target, ask: Ask, text: str) -> None:
    with pytest.raises(RequestRefused, match="AEGIS_CHUNK_TOKENS") as caught:
        await ask(target.client, replace(ASK, messages=(Message(role="user", content=text),)))
    assert "secret" not in str(caught.value)
    assert "秘" not in str(caught.value)


async def test_sixty_four_calls_at_once_are_all_answered(target: Target) -> None:
    answers = await asyncio.gather(*(target.client.complete(ASK) for _ in range(64)))
    assert all(answer.text for answer in answers)


@pytest.mark.parametrize("engine", Engine)
async def test_nobody_there_is_unreachable_and_said_so(engine: Engine, free_port: int) -> None:
    client = connect(engine, f"http://127.0.0.1:{free_port}")
    for call in (client.complete(ASK), whole(client, ASK), client.prove()):
        with pytest.raises(EngineUnreachable, match="connection refused"):
            await call
    assert (await client.probe()).reason == "connection refused"
    await client.aclose()


async def test_a_whole_answer_that_is_cancelled_is_closed_at_the_engine(slow: Target) -> None:
    call = asyncio.create_task(slow.client.complete(LONG))
    await slow.in_flight(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await slow.in_flight(0)


@BOTH_WAYS
async def test_a_deadline_closes_the_call_at_the_engine(slow: Target, ask: Ask) -> None:
    if slow.simulator is not None:
        await slow.set_fault(hang=True)
    deadline = anyio.CancelScope()

    async def bounded() -> None:
        with deadline:
            await ask(slow.client, LONG)

    call = asyncio.create_task(bounded())
    await slow.in_flight(1)
    deadline.deadline = anyio.current_time()
    await call
    assert deadline.cancelled_caught
    await slow.in_flight(0)


async def test_a_stream_that_is_closed_early_is_closed_at_the_engine(slow: Target) -> None:
    async with aclosing(opened(slow.client, LONG)) as parts:
        assert await anext(parts)
        await slow.in_flight(1)
        assert connections_in_use(slow.client) == 1
    # At once, not when the garbage collector finds the stream.
    assert connections_in_use(slow.client) == 0
    await slow.in_flight(0)


async def test_a_stream_whose_reader_is_cancelled_is_closed_at_the_engine(slow: Target) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async with aclosing(opened(slow.client, LONG)) as parts:
            async for _ in parts:
                begun.set()

    reader = asyncio.create_task(read())
    await begun.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await slow.in_flight(0)


async def test_closing_the_client_ends_its_calls(slow: Target) -> None:
    call = asyncio.create_task(slow.client.complete(LONG))
    await slow.in_flight(1)
    await slow.client.aclose()
    with pytest.raises(EngineLost):
        await call
    await slow.in_flight(0)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"error_status": 503, "error_message": "busy"}, EngineBusy),
        ({"error_status": 500, "error_message": "out of luck"}, EngineBusy),
        ({"error_status": 429, "error_message": "slow down"}, EngineBusy),
        ({"error_status": 500}, EngineLost),
        ({"error_status": 400, "error_message": "a secret"}, RequestRefused),
        ({"error_status": 413, "error_message": "a secret"}, RequestRefused),
        ({"error_status": 422, "error_message": "a secret"}, RequestRefused),
        ({"finish": "abort"}, EngineLost),
        ({"end": "error"}, EngineLost),
        ({"end": "unfinished"}, EngineLost),
        ({"drop_after_chunks": 0}, EngineLost),
        ({"drop_after_chunks": 3}, EngineLost),
        ({"die": "on_call"}, EngineLost),
        ({"garbage": True}, EngineBusy),
    ],
)
async def test_a_fault_is_the_error_that_says_what_to_do(
    simulated: Target, ask: Ask, fault: dict[str, Any], expected: type[EngineError]
) -> None:
    await simulated.set_fault(**fault)
    with pytest.raises(expected) as caught:
        await ask(simulated.client, ASK)
    assert simulated.client.engine.label in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.words == fault.get("error_message", caught.value.words)


async def test_a_stream_that_just_stops_is_lost(simulated: Target) -> None:
    await simulated.set_fault(end="missing")
    parts = opened(simulated.client, ASK)
    with pytest.raises(EngineLost):
        _ = [part async for part in parts]


@BOTH_WAYS
async def test_an_answer_that_loops_on_whitespace_ends_at_its_limit(simulated: Target, ask: Ask) -> None:
    await simulated.set_fault(whitespace=True)
    assert (await ask(simulated.client, replace(ASK, schema=SCHEMA))).finish is Finish.LENGTH


@BOTH_WAYS
async def test_control_characters_and_odd_line_ends_arrive_as_they_are(simulated: Target, ask: Ask) -> None:
    text = "a\x10b\tc\x85d\u2028e\u2029f\x0bg\x0ch\x1ci\r\nj 👩🏽\u200d🚀"
    await simulated.set_fault(answer=text)
    assert (await ask(simulated.client, ASK)).text == text


@BOTH_WAYS
@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_reasoning_is_kept_apart_from_the_answer(simulated: Target, ask: Ask, field: str) -> None:
    await simulated.set_fault(reasoning="first I thought", reasoning_field=field, answer="then I spoke")
    answer = await ask(simulated.client, ASK)
    assert (answer.reasoning, answer.text) == ("first I thought", "then I spoke")


@BOTH_WAYS
async def test_an_empty_answer_is_an_answer(simulated: Target, ask: Ask) -> None:
    await simulated.set_fault(answer="")
    answer = await ask(simulated.client, ASK)
    assert (answer.text, answer.reasoning, answer.finish) == ("", None, Finish.STOP)


async def test_a_replica_that_is_not_healthy_is_unavailable(simulated: Target) -> None:
    await simulated.set_fault(health_down=True)
    assert await simulated.client.probe() == Probe(readiness=Readiness.UNAVAILABLE, reason="not healthy (HTTP 503)")


async def test_both_engines_receive_the_same_messages_and_schema(simulate: Simulate) -> None:
    turns = (
        Message(role="system", content="Extract.\nBe exact."),
        Message(role="user", content="Ümläute, 日本語, \x00, \x85 and 👩🏽\u200d🚀"),
        Message(role="assistant", content="{}"),
        Message(role="user", content="Again."),
    )
    schema = {"type": "object", "properties": {"x": {"const": None, "default": None, "enum": ["a", None, 1.5, True]}}}
    asked = CompletionRequest(
        messages=turns, schema=schema, sampling=Sampling(max_tokens=77, temperature=0.0, top_p=0.9, seed=7), request_id="call-1"
    )
    bodies: dict[Engine, dict[str, Any]] = {}
    for engine in Engine:
        target = await simulate(engine.value)
        await target.client.complete(asked)
        _ = await streamed(target.client, asked)
        plain, stream = await target.requests()
        assert {**stream, "stream": None, "stream_options": None} == {**plain, "stream": None, "stream_options": None}
        bodies[engine] = plain
    vllm, ollama = bodies[Engine.VLLM], bodies[Engine.OLLAMA]
    assert vllm["messages"] == ollama["messages"] == [{"role": turn.role, "content": turn.content} for turn in turns]
    assert vllm["response_format"]["json_schema"]["schema"] == ollama["format"] == schema
    assert vllm["max_tokens"] == ollama["options"]["num_predict"] == 77
    drawn = {"temperature": 0.0, "top_p": 0.9, "seed": 7}
    assert {name: vllm[name] for name in drawn} == {name: ollama["options"][name] for name in drawn} == drawn


async def test_each_replica_has_a_client_of_its_own(simulate: Simulate) -> None:
    targets = [await simulate("vllm") for _ in range(2)]
    built = clients.build(Settings(_env_file=None, vllm_url=tuple(target.url for target in targets), vllm_model="sim"))
    assert built[Engine.OLLAMA] == ()
    assert [client.url for client in built[Engine.VLLM]] == [target.url for target in targets]
    first, second = built[Engine.VLLM]
    await first.complete(ASK)
    await first.aclose()
    await second.complete(ASK)
    await second.aclose()
    assert [len(await target.requests()) for target in targets] == [1, 1]
