"""The simulators are held against what real engines have answered: see `tests/engines/recorded`."""

from collections.abc import Sequence
from typing import Any

import exchanges
import httpx
import pytest
from exchanges import Conversation
from simulated import simulated

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
