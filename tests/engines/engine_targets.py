"""The servers that the engine clients are tested against."""

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import httpx

from aegis_workers.completion import Completion, CompletionRequest
from aegis_workers.engines import clients
from aegis_workers.engines.base import EngineClient
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.simulator.server import Running

WAIT_S = 10.0
NUM_CTX = 2048
# Made once: loading the certificates anew costs more than a whole test.
_TLS = ssl.create_default_context()


@dataclass(frozen=True, kw_only=True)
class Target:
    """One server under test, a client of it, and what it lets a test do."""

    engine: Engine
    url: str
    client: EngineClient
    simulator: Running | None = None

    async def set_fault(self, **behaviour: Any) -> None:
        await self._control("POST", "behaviour", json=behaviour)

    async def requests(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", await self._control("GET", "requests"))

    async def in_flight(self, count: int) -> None:
        """Return when the engine has `count` calls in flight."""
        async with asyncio.timeout(WAIT_S):
            while (await self._control("GET", "stats"))["in_flight"] != count:  # noqa: ASYNC110 - the engine has no event for it
                await asyncio.sleep(0.005)

    async def _control(self, method: str, name: str, **arguments: Any) -> Any:
        assert self.simulator is not None
        async with httpx.AsyncClient(trust_env=False, verify=_TLS) as http:
            return (await http.request(method, f"{self.url}/_sim/{name}", **arguments)).raise_for_status().json()


Simulate = Callable[..., Awaitable[Target]]


def connect(engine: Engine, url: str, model: str = "sim") -> EngineClient:
    """A client, made as a worker makes it."""
    named: dict[str, Any] = {f"{engine}_url": (url,), f"{engine}_model": model, "ollama_num_ctx": NUM_CTX}
    (client,) = clients.build(Settings(_env_file=None, **named))[engine]
    return client


def real_engines() -> list[str]:
    return [engine for engine in Engine if os.environ.get(f"AEGIS_TEST_{engine.upper()}_URL")]


def opened(client: EngineClient, request: CompletionRequest) -> AsyncGenerator[str | Completion, None]:
    return client.stream(request)


async def streamed(client: EngineClient, request: CompletionRequest) -> list[str | Completion]:
    return [part async for part in client.stream(request)]


def connections_in_use(client: Any) -> int:
    return len(client._http._transport._pool.session().connector._acquired)


async def whole(client: EngineClient, request: CompletionRequest) -> Completion:
    last = (await streamed(client, request))[-1]
    assert isinstance(last, Completion)
    return last
