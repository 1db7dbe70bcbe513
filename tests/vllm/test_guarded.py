"""A server with a key, a bounded queue and the default policy."""

import asyncio
import json
from dataclasses import replace

import asking
import httpx
import pytest
from asking import LONG, MESSAGES, SHORT, Ask, connected
from serving import API_KEY, MODEL, QUEUE_BOUND, Server

from aegis_workers.completion import Completion, Finish, Sampling
from aegis_workers.engines.base import Readiness
from aegis_workers.errors import EngineBusy, RequestRefused

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("key", [None, "wrong"])
@pytest.mark.parametrize("ask", asking.WAYS)
async def test_without_its_key_a_call_is_refused_and_the_cure_named(guarded: Server, key: str | None, ask: Ask) -> None:
    async with connected(guarded, api_key=key) as client:
        with pytest.raises(RequestRefused, match="AEGIS_VLLM_API_KEY"):
            await ask(client, SHORT)
        found = await client.probe()
        assert found.readiness is Readiness.UNAVAILABLE
        assert "AEGIS_VLLM_API_KEY" in found.reason


async def test_with_its_key_it_is_ready_and_answers(guarded: Server) -> None:
    async with connected(guarded, api_key=API_KEY) as client:
        assert (await client.probe()).readiness is Readiness.READY
        assert (await client.complete(SHORT)).completion_tokens == 8


async def test_calls_beyond_the_queue_bound_are_busy_and_the_others_are_answered(guarded: Server) -> None:
    before = guarded.count("vllm:admission_rejections_total", where_absent=0)
    async with connected(guarded, api_key=API_KEY) as client:
        short = replace(LONG, sampling=replace(LONG.sampling, max_tokens=200))
        calls = [asyncio.create_task(client.complete(short)) for _ in range(8 * QUEUE_BOUND)]
        ended = await asking.failures(*calls)
    answered = [one for one in ended if isinstance(one, Completion)]
    busy = [one for one in ended if isinstance(one, EngineBusy)]
    assert len(answered) >= QUEUE_BOUND
    assert busy
    assert len(answered) + len(busy) == len(calls)
    assert {str(one) for one in busy} == {f"vLLM at {guarded.url} could not serve the request now (HTTP 503)"}
    assert guarded.count("vllm:admission_rejections_total") == before + len(busy)


async def test_without_the_policy_a_priority_is_taken_and_does_nothing(guarded: Server) -> None:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with httpx.AsyncClient(base_url=guarded.url, trust_env=False, timeout=300, headers=headers) as http:
        body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
        plain, urgent = [await http.post("/v1/chat/completions", json=body | more) for more in ({}, {"priority": -5})]
    assert plain.status_code == urgent.status_code == 200
    assert plain.json()["choices"] == urgent.json()["choices"]


async def test_the_default_backend_follows_a_schema_too(guarded: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["kind", "count"],
        "additionalProperties": False,
    }
    # Drawn, because the likeliest token may be whitespace for ever where the backend allows it.
    asked = replace(SHORT, schema=schema, sampling=Sampling(max_tokens=1000, temperature=1.0, seed=3))
    async with connected(guarded, api_key=API_KEY) as client:
        answer = await client.complete(asked)
    assert answer.finish is Finish.STOP
    assert set(json.loads(answer.text)) == {"kind", "count"}
