"""What the tests ask of a real vLLM."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import serving
from pydantic import SecretStr
from serving import WAIT_S, Server

from aegis_workers.completion import Completion, CompletionRequest, Message, Sampling
from aegis_workers.engines import clients
from aegis_workers.engines.base import EngineClient
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings

Ask = Callable[[EngineClient, CompletionRequest], Coroutine[Any, Any, Completion]]

# The likeliest answer of random weights repeats itself and ends at its limit only: half a minute from now.
LONG = CompletionRequest(
    messages=(Message(role="user", content="Say hello to the world."),), sampling=Sampling(max_tokens=7900, temperature=0.0)
)
SHORT = CompletionRequest(messages=LONG.messages, sampling=Sampling(max_tokens=8, temperature=0.0))
MESSAGES = [{"role": turn.role, "content": turn.content} for turn in LONG.messages]


@asynccontextmanager
async def connected(server: Server, *, api_key: str | None = None, model: str = serving.MODEL) -> AsyncIterator[EngineClient]:
    """A client, made as a worker makes it."""
    key = None if api_key is None else SecretStr(api_key)
    settings = Settings(_env_file=None, vllm_url=(server.url,), vllm_model=model, vllm_api_key=key)
    (client,) = clients.build(settings)[Engine.VLLM]
    try:
        yield client
    finally:
        await client.aclose()


async def streamed(client: EngineClient, request: CompletionRequest) -> Completion:
    """The whole answer, by way of a stream."""
    parts = [part async for part in client.stream(request)]
    assert isinstance(parts[-1], Completion)
    return parts[-1]


async def whole(client: EngineClient, request: CompletionRequest) -> Completion:
    """The whole answer, at once."""
    return await client.complete(request)


WAYS: tuple[Ask, ...] = (whole, streamed)


async def begun(server: Server, *calls: Coroutine[Any, Any, Completion]) -> list["asyncio.Task[Completion]"]:
    """`calls` as tasks, which the engine has in hand, and no others."""
    await server.has_in_flight(0)
    tasks = [asyncio.create_task(call) for call in calls]
    in_hand = asyncio.create_task(server.has_in_flight(len(tasks)))
    await asyncio.wait([in_hand, *tasks], return_when=asyncio.FIRST_COMPLETED)
    assert not (ended := [task for task in tasks if task.done()]), f"before the engine had all: {ended}"
    await in_hand
    return tasks


async def failures(*tasks: "asyncio.Task[Completion]") -> list[Any]:
    """How `tasks` failed; an answer stands for itself."""
    async with asyncio.timeout(WAIT_S):
        return await asyncio.gather(*tasks, return_exceptions=True)
