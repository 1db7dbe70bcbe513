"""What is written down of the engine's answers to calls that a fault met; with `--record` it is written down.

The simulator is held against it in `tests/simulator/test_recorded.py`.
"""

import asyncio
from typing import Any

import exchanges
import httpx
import pytest
from exchanges import Exchange
from real_vllm import RealVllm
from serving import QUEUE_BOUND, Server

pytestmark = pytest.mark.anyio

# Enough that a stream has text before its fault.
TOKENS = 20
SERVERS = {"full": "guarded", "stopped": "guarded", "asleep": "server", "killed": "server"}
KEPT = exchanges.load_faults("vllm")


async def answer(server: Server, asked: Exchange) -> dict[str, Any]:
    """What the engine answers when the fault meets it with the request in hand."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=300) as http:
        if asked.fault == "full":
            return await beyond_the_bound(server, http, asked)
        call = asyncio.create_task(exchanges.ask(http, asked.request))
        await server.has_generated(TOKENS)
        match asked.fault:
            case "asleep":
                await http.post("/sleep?level=1")
            case "stopped":
                server.terminate_engine_core()
            case _:
                server.kill_engine_core()
        return await call


async def beyond_the_bound(server: Server, http: httpx.AsyncClient, asked: Exchange) -> dict[str, Any]:
    """There are slots enough for all: what is bounded is running and waiting calls together."""
    long = {**asked.request, "body": asked.request["body"] | {"max_tokens": 7900, "ignore_eos": True}}
    others = [asyncio.create_task(exchanges.ask(http, long)) for _ in range(QUEUE_BOUND)]
    await server.has_at_least(QUEUE_BOUND)
    found = await exchanges.ask(http, asked.request)
    for other in others:
        other.cancel()
    await asyncio.wait(others)
    return found


async def recover(server: Server, asked: Exchange) -> None:
    """Leaves nothing to the next test."""
    match asked.fault:
        case "asleep":
            async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
                await http.post("/wake_up")
        case "stopped" | "killed":
            server.kill()


@pytest.mark.parametrize("asked", KEPT.exchanges, ids=lambda one: one.name)
async def test_the_engine_answers_a_call_that_a_fault_met_as_it_is_written(
    asked: Exchange, suite: RealVllm, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(SERVERS[str(asked.fault)])
    engine = f"vLLM {server.version}"
    found = await answer(server, asked)
    await recover(server, asked)
    if suite.record:
        exchanges.load_faults("vllm").with_answer(engine, asked.name, exchanges.shortened(found)).save()
        return
    assert asked.answer is not None, "record it first: scripts/test-engines --record"
    assert exchanges.differences(found, asked.answer) == []
