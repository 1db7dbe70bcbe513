"""Single calls on a server in developer mode that knows priorities."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import anyio
import asking
import httpx
import pytest
from asking import LONG, MESSAGES, SHORT, Ask, connected
from serving import CONTEXT_TOKENS, MODEL, SLOTS, Server

from aegis_workers.completion import Finish, Message
from aegis_workers.engines.base import Readiness
from aegis_workers.errors import EngineWithdrew, RequestRefused

pytestmark = pytest.mark.anyio

BOTH_WAYS = pytest.mark.parametrize("ask", asking.WAYS)
# What probes, tests and an operator's dashboard read.
METRICS = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:request_success_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:num_preemptions_total",
    "vllm:engine_sleep_state",
)


@BOTH_WAYS
async def test_a_cancelled_call_leaves_nothing_running(server: Server, ask: Ask) -> None:
    async with connected(server) as client:
        (call,) = await asking.begun(server, ask(client, LONG))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.has_in_flight(0)


@BOTH_WAYS
async def test_a_deadline_leaves_nothing_running(server: Server, ask: Ask) -> None:
    async with connected(server) as client:
        deadline = anyio.CancelScope()

        async def bounded() -> None:
            with deadline:
                await ask(client, LONG)

        call = asyncio.create_task(bounded())
        await server.has_in_flight(1)
        deadline.deadline = anyio.current_time()
        await call
        assert deadline.cancelled_caught
        await server.has_in_flight(0)


async def test_a_stream_that_is_closed_early_leaves_nothing_running(server: Server) -> None:
    async with connected(server) as client:
        async with aclosing(client.stream(LONG)) as parts:
            assert await anext(parts)
            await server.has_in_flight(1)
        await server.has_in_flight(0)


@BOTH_WAYS
async def test_a_prompt_that_is_too_long_is_refused_and_the_cure_named(server: Server, ask: Ask) -> None:
    async with connected(server) as client:
        long = replace(SHORT, messages=(Message(role="user", content="a secret " * 1000),))
        with pytest.raises(RequestRefused, match="AEGIS_CHUNK_TOKENS") as caught:
            await ask(client, long)
        assert "secret" not in str(caught.value)
        assert "maximum context length is 8192 tokens" in caught.value.words


async def test_an_answer_that_does_not_fit_beside_its_prompt_is_cut(server: Server) -> None:
    async with connected(server) as client:
        nearly_all = (Message(role="user", content="x" * (CONTEXT_TOKENS - 100)),)
        answer = await client.complete(replace(LONG, messages=nearly_all))
        assert answer.finish is Finish.LENGTH
        assert answer.prompt_tokens is not None
        assert answer.completion_tokens == CONTEXT_TOKENS - answer.prompt_tokens


async def test_an_unknown_model_is_refused_and_the_cure_named(server: Server) -> None:
    async with connected(server, model="nope") as client:
        with pytest.raises(RequestRefused, match="AEGIS_VLLM_MODEL"):
            await client.complete(SHORT)
        assert (await client.probe()).reason.startswith(f"it serves {MODEL}, not nope")


async def test_the_engine_counts_what_it_does_under_todays_names(server: Server) -> None:
    async with connected(server) as client:
        before = {name: server.count(name) for name in METRICS}
        answer = await client.complete(SHORT)
        assert server.count("vllm:generation_tokens_total") == before["vllm:generation_tokens_total"] + 8
        assert server.count("vllm:prompt_tokens_total") == before["vllm:prompt_tokens_total"] + (answer.prompt_tokens or 0)
        assert server.count("vllm:request_success_total") == before["vllm:request_success_total"] + 1


async def test_a_probe_tells_the_calls_that_run_and_wait(server: Server) -> None:
    async with connected(server) as client:
        calls = await asking.begun(server, *(client.complete(LONG) for _ in range(SLOTS + 4)))
        found = await client.probe()
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert (found.running, found.waiting) == (SLOTS, 4)
        await server.has_in_flight(0)


async def test_with_its_policy_a_low_priority_number_goes_first(server: Server) -> None:
    order: list[str] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=300, limits=limits) as http:

        async def ask(name: str, priority: int) -> None:
            body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 100, "ignore_eos": True, "priority": priority}
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
            order.append(name)

        bulk = [asyncio.create_task(ask("bulk", 10)) for _ in range(5 * SLOTS)]
        await server.has_at_least(3 * SLOTS)
        await asyncio.gather(*bulk, *(ask("urgent", -5) for _ in range(4)))
    assert order[-SLOTS:] == ["bulk"] * SLOTS


REST = pytest.mark.parametrize(
    ("rest", "wake"), [("/sleep?level=1", "/wake_up"), ("/pause", "/resume"), ("/pause?mode=keep", "/resume")]
)


@REST
async def test_an_engine_at_rest_is_asleep_to_a_probe_and_lets_calls_wait(server: Server, rest: str, wake: str) -> None:
    async with connected(server) as client, httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=300) as http:
        await http.post(rest)
        assert server.is_healthy()
        found = await client.probe()
        call = asyncio.create_task(client.complete(SHORT))
        done, _ = await asyncio.wait([call], timeout=0.5)
        await http.post(wake)
        assert (found.readiness, found.reason) == (Readiness.UNAVAILABLE, "asleep")
        assert not done
        assert (await call).finish is Finish.LENGTH
        assert (await client.probe()).readiness is Readiness.READY


@BOTH_WAYS
@pytest.mark.parametrize(("rest", "wake"), [("/sleep?level=1", "/wake_up"), ("/pause", "/resume")])
async def test_going_to_rest_breaks_off_what_runs(server: Server, ask: Ask, rest: str, wake: str) -> None:
    async with connected(server) as client, httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=300) as http:
        (call,) = await asking.begun(server, ask(client, LONG))
        await http.post(rest)
        failure: Any = (await asyncio.gather(call, return_exceptions=True))[0]
        await http.post(wake)
        assert type(failure) is EngineWithdrew
        assert "finish reason abort" in str(failure)
        # It serves again. Its gauges show the call that was broken off until it has run another one.
        assert (await client.complete(SHORT)).finish is Finish.LENGTH
        await server.has_in_flight(0)


@pytest.mark.parametrize(("rest", "wake"), [("/sleep?level=1&mode=wait", "/wake_up"), ("/pause?mode=wait", "/resume")])
async def test_going_to_rest_can_wait_for_what_runs(server: Server, rest: str, wake: str) -> None:
    medium = replace(LONG, sampling=replace(LONG.sampling, max_tokens=500))
    async with connected(server) as client, httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=300) as http:
        (call,) = await asking.begun(server, client.complete(medium))
        rested = await http.post(rest)
        answer = await call
        found = await client.probe()
        await http.post(wake)
        assert rested.status_code == httpx.codes.OK
        assert (answer.finish, answer.completion_tokens) == (Finish.LENGTH, 500)
        assert (found.readiness, found.reason) == (Readiness.UNAVAILABLE, "asleep")
