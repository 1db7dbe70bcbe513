"""The servers of these tests: simulators, real engines where there are any, and raw ones that answer byte by byte."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Literal

import pytest
from engine_targets import Simulate, Target, connect, real, real_engines

from aegis_workers.routing import Engine
from aegis_workers.simulator.server import Options, start

Answer = Callable[[bytes], Awaitable[Sequence[bytes]]]

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that refuses connections for as long as the test runs: it is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return head + await reader.readexactly(int(lengths[0]) if lengths else 0)


@asynccontextmanager
async def _listening(answer: Answer) -> AsyncIterator[str]:
    """A base URL where each request gets what `answer` makes of it, piece by piece, and then the connection closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            for piece in await answer(await _read_request(reader)):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
async def serve(anyio_backend: str) -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """`await serve(*pieces, requests=[])`: a base URL where each request gets `pieces`; the requests are put in `requests`."""
    del anyio_backend
    async with AsyncExitStack() as servers:

        async def start(*pieces: bytes, requests: list[bytes] | None = None) -> str:
            async def answer(request: bytes) -> Sequence[bytes]:
                if requests is not None:
                    requests.append(request)
                return pieces

            return await servers.enter_async_context(_listening(answer))

        yield start


@pytest.fixture
async def serve_pages(anyio_backend: str) -> AsyncIterator[Callable[[Mapping[str, bytes]], Awaitable[str]]]:
    """`await serve_pages(pages)`: a base URL where each path has its answer, and every other path is not found."""
    del anyio_backend
    async with AsyncExitStack() as servers:

        async def start(pages: Mapping[str, bytes]) -> str:
            async def answer(request: bytes) -> Sequence[bytes]:
                return (pages.get(request.split()[1].decode(), NOT_FOUND),)

            return await servers.enter_async_context(_listening(answer))

        yield start


@pytest.fixture
async def serve_silence(anyio_backend: str) -> AsyncIterator[str]:
    """A base URL that takes requests and never answers."""
    del anyio_backend
    ended = asyncio.Event()

    async def answer(_: bytes) -> Sequence[bytes]:
        await ended.wait()
        return ()

    async with _listening(answer) as url:
        yield url
        ended.set()


@pytest.fixture
async def simulate(anyio_backend: str) -> AsyncIterator[Simulate]:
    """`await simulate(engine, **options)`: a simulator of `engine`, stopped after the test."""
    del anyio_backend
    async with AsyncExitStack() as started:

        async def begin(engine: Literal["vllm", "ollama"], **options: Any) -> Target:
            running = await start(Options(engine=engine, slots=64, record=True, **options))
            started.push_async_callback(running.stop)
            client = connect(Engine(engine), running.url)
            started.push_async_callback(client.aclose)
            return Target(engine=Engine(engine), url=running.url, client=client, simulator=running)

        yield begin


@pytest.fixture(params=["simulated vllm", "simulated ollama", *real_engines()])
async def target(request: pytest.FixtureRequest, simulate: Simulate) -> AsyncIterator[Target]:
    """Every engine in turn."""
    async with _target(request.param, simulate) as found:
        yield found


@pytest.fixture(params=["vllm", "ollama"])
async def simulated(request: pytest.FixtureRequest, simulate: Simulate) -> Target:
    """Every simulator in turn: what needs faults or counts."""
    return await simulate(request.param)


@pytest.fixture(params=["simulated vllm", "simulated ollama", *real_engines()])
async def slow(request: pytest.FixtureRequest, simulate: Simulate) -> AsyncIterator[Target]:
    """Every engine in turn, the simulators at a speed at which `LONG` streams for a minute."""
    async with _target(request.param, simulate, tokens_per_s=20.0) as found:
        yield found


@asynccontextmanager
async def _target(kind: str, simulate: Simulate, **options: Any) -> AsyncIterator[Target]:
    simulated, _, engine = kind.rpartition(" ")
    if simulated:
        yield await simulate(engine, **options)
        return
    async with real(Engine(engine), os.environ) as found:
        yield found
