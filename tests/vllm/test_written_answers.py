"""What is written down of the engine's answers is what it answers; with `--record` it is written down."""

import exchanges
import httpx
import pytest
from exchanges import Conversation
from real_vllm import RealVllm
from serving import Server

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kept", exchanges.load_all(), ids=lambda kept: kept.path.stem)
async def test_the_engine_answers_as_it_is_written(kept: Conversation, suite: RealVllm, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue({"open": "server", "guarded": "guarded"}[kept.server])
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=300) as http:
        answers = [await exchanges.ask(http, exchange.request) for exchange in kept.exchanges]
    if suite.record:
        kept.answered(f"vLLM {server.version}", answers).save()
        return
    for exchange, answer in zip(kept.exchanges, answers, strict=True):
        assert exchange.answer is not None, "record it first: scripts/test-engines --record"
        assert exchanges.differences(answer, exchange.answer) == [], exchange.name
