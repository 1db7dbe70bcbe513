"""The simulators are held against what real engines have answered: see `tests/engines/recorded`."""

import asyncio
from collections.abc import Sequence
from typing import Any

import exchanges
import httpx
import pytest
from exchanges import Conversation, Exchange
from simulated import Simulated, StillClock, simulated, until

pytestmark = pytest.mark.anyio

SERVERS: dict[str, dict[str, Any]] = {"open": {"dev_mode": True, "load_tracking": True}, "guarded": {"api_key": "secret"}}
# Fewer than the engine had that was recorded, because a token of the simulator holds more text.
CONTEXT_TOKENS = 512


async def answers(kept: Conversation) -> Sequence[dict[str, Any]]:
    async with (
        simulated("vllm", context_tokens=CONTEXT_TOKENS, **SERVERS[kept.server]) as sim,
        httpx.AsyncClient(base_url=sim.running.url, trust_env=False) as http,
    ):
        return [await exchanges.ask(http, exchange.request) for exchange in kept.exchanges]


@pytest.mark.parametrize("kept", exchanges.load_all(), ids=lambda kept: kept.path.stem)
async def test_the_simulator_answers_as_the_real_engine_did(kept: Conversation) -> None:
    for exchange, answer in zip(kept.exchanges, await answers(kept), strict=True):
        assert exchange.answer is not None
        assert exchanges.differences(answer, exchange.answer) == [], exchange.name


FAULTS = exchanges.load_faults("vllm")
# Seconds that a call runs before its fault, at 20 tokens/s.
RUNS_S = 2.0


async def met(sim: Simulated, clock: StillClock, asked: Exchange) -> dict[str, Any]:
    """What the simulator answers when the fault meets it with the request in hand."""
    await sim.fault(answer="word " * 600, hang=asked.fault == "full", end="error" if asked.fault == "killed" else None)
    async with httpx.AsyncClient(base_url=sim.running.url, trust_env=False, timeout=60) as http:
        call = asyncio.create_task(exchanges.ask(http, asked.request))
        await until(lambda: sim.running.stats.running == 1)
        await clock.advance(RUNS_S)
        match asked.fault:
            case "full":
                beyond = await exchanges.ask(http, asked.request)
                call.cancel()
                return beyond
            case "asleep":
                await sim.request("POST", "/sleep?level=1")
            case "stopped":
                await sim.running.stop()
            case _:
                await clock.advance(10 * len("word ") * 600)
        return await call


@pytest.mark.parametrize("kept", FAULTS.exchanges, ids=lambda one: one.name)
async def test_the_simulator_answers_a_call_that_a_fault_met_as_the_real_engine_did(kept: Exchange) -> None:
    clock = StillClock()
    async with simulated("vllm", clock=clock, queue_bound=1, tokens_per_s=20.0, dev_mode=True) as sim:
        answer = await met(sim, clock, kept)
    assert kept.answer is not None
    assert exchanges.differences(answer, kept.answer) == []
