"""The servers that the engine clients are tested against."""

import asyncio
import os
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest

from aegis_workers.completion import Completion, CompletionRequest
from aegis_workers.engines import clients
from aegis_workers.engines.base import EngineClient
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.simulator.server import Running

WAIT_S = 10.0
NUM_CTX = 2048
# What vLLM says of its calls, waiting ones too.
_CALLS = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? (\S+)", re.MULTILINE)
# Made once: loading the certificates anew costs more than a whole test.
_TLS = ssl.create_default_context()


@dataclass(frozen=True, kw_only=True)
class Target:
    """One server under test, a client of it, and what it lets a test do. A real one is asked by nobody else meanwhile."""

    engine: Engine
    url: str
    client: EngineClient
    simulator: Running | None = None
    api_key: str | None = None

    def connect(self, model: str) -> EngineClient:
        """Another client of the same server, for `model`."""
        return connect(self.engine, self.url, model, api_key=self.api_key)

    async def set_fault(self, **behaviour: Any) -> None:
        await self._control("POST", "behaviour", json=behaviour)

    async def requests(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", await self._control("GET", "requests"))

    async def in_flight(self, count: int) -> None:
        """Return when the engine has `count` calls in flight.

        A real Ollama gives no count: there a call is in flight once it has a connection, and a test that would see it end is
        skipped where it says so.
        """
        if self.simulator is None and self.engine is Engine.OLLAMA and not count:
            pytest.skip("a real Ollama does not tell its calls in flight: all but their end AT THE ENGINE was tested")
        async with asyncio.timeout(WAIT_S):
            while await self._count() != count:  # noqa: ASYNC110 - the engine has no event for it
                await asyncio.sleep(0.005)

    async def _count(self) -> int:
        if self.simulator is not None:
            return int((await self._control("GET", "stats"))["in_flight"])
        if self.engine is Engine.OLLAMA:
            return connections_in_use(self.client)
        async with httpx.AsyncClient(trust_env=False, verify=_TLS) as http:
            return round(sum(map(float, _CALLS.findall((await http.get(f"{self.url}/metrics")).text))))

    async def _control(self, method: str, name: str, **arguments: Any) -> Any:
        assert self.simulator is not None
        async with httpx.AsyncClient(trust_env=False, verify=_TLS) as http:
            return (await http.request(method, f"{self.url}/_sim/{name}", **arguments)).raise_for_status().json()


Simulate = Callable[..., Awaitable[Target]]


def connect(engine: Engine, url: str, model: str = "sim", *, api_key: str | None = None) -> EngineClient:
    """A client, made as a worker makes it."""
    named: dict[str, Any] = {f"{engine}_url": (url,), f"{engine}_model": model, "ollama_num_ctx": NUM_CTX}
    (client,) = clients.build(Settings(_env_file=None, **named, vllm_api_key=api_key))[engine]
    return client


def real_engines() -> list[str]:
    return [engine for engine in Engine if os.environ.get(f"AEGIS_TEST_{engine.upper()}_URL")]


@asynccontextmanager
async def real(engine: Engine, named: Mapping[str, str]) -> AsyncIterator[Target]:
    """The engine at `AEGIS_TEST_<ENGINE>_URL` of `named`, and the model given there, or else the first that it lists."""
    prefix = f"AEGIS_TEST_{engine.upper()}"
    url, api_key = named[f"{prefix}_URL"].rstrip("/"), named.get(f"{prefix}_API_KEY")
    model = named.get(f"{prefix}_MODEL") or await _first_model(engine, url, api_key)
    client = connect(engine, url, model, api_key=api_key)
    yield Target(engine=engine, url=url, client=client, api_key=api_key)
    await client.aclose()


async def _first_model(engine: Engine, url: str, api_key: str | None) -> str:
    client = connect(engine, url, "the first that is there", api_key=api_key)
    found = await client.probe()
    await client.aclose()
    if not found.models:
        pytest.fail(f"{url} lists no model ({found.reason}): set AEGIS_TEST_{engine.upper()}_MODEL, or correct its URL or key")
    return found.models[0]


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
