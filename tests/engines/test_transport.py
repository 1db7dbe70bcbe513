import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import httpx
import pytest
from aiohttp import web

from aegis_workers.engines import transport
from aegis_workers.engines.transport import Address
from aegis_workers.errors import EngineLost, EngineUnreachable

pytestmark = pytest.mark.anyio

Serve = Callable[..., Awaitable[str]]
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("url", "bare", "authorization"),
    [
        ("http://host:8000", "http://host:8000", None),
        ("http://host:8000/prefix/", "http://host:8000/prefix", None),
        ("https://user:p%40ss@host", "https://host", "Basic dXNlcjpwQHNz"),
        ("http://user@[::1]:8000", "http://[::1]:8000", "Basic dXNlcjo="),
    ],
)
def test_credentials_leave_the_address_and_become_a_header(url: str, bare: str, authorization: str | None) -> None:
    assert transport.address(url) == Address(url=bare, authorization=authorization)


def test_an_api_key_wins_over_a_password() -> None:
    assert transport.address("http://user:pass@host", api_key="key").authorization == "Bearer key"


@pytest.fixture
async def counted(anyio_backend: str) -> AsyncIterator[tuple[str, web.Server]]:
    """A server that answers once 64 requests are there, and its URL."""
    del anyio_backend
    barrier = asyncio.Barrier(64)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        await barrier.wait()
        return web.Response(text="{}")

    server = web.Server(answer)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", server
    await runner.cleanup()


async def test_calls_at_once_share_one_pool_and_leave_no_connection_open(
    counted: tuple[str, web.Server],
) -> None:
    url, server = counted
    pool = transport.Pool()
    clients = [pool.client(Address(url=url)) for _ in range(2)]
    for _ in range(3):
        await asyncio.gather(*(client.post("/") for client in clients for _ in range(32)))
        assert len(server.connections) == 64
    await clients[0].aclose()
    assert not pool.session().closed
    await clients[1].aclose()
    assert pool.session().closed
    async with asyncio.timeout(5):
        while server.connections:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0)


async def test_neither_proxies_nor_credentials_come_from_the_environment(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    requests: list[bytes] = []
    url = await serve(EMPTY, requests=requests)
    async with transport.Pool().client(Address(url=url)) as client:
        assert (await client.get("/")).is_success
    assert b"authorization" not in requests[0].lower()


async def test_the_configured_credentials_are_sent(serve: Serve) -> None:
    requests: list[bytes] = []
    url = await serve(EMPTY, requests=requests)
    async with transport.Pool().client(transport.address(url, api_key="key")) as client:
        await client.get("/")
    assert b"authorization: bearer key\r\n" in requests[0].lower()


async def test_a_redirect_is_not_followed(serve: Serve) -> None:
    requests: list[bytes] = []
    url = await serve(b"HTTP/1.1 307 Go\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", requests=requests)
    async with transport.Pool().client(Address(url=url)) as client:
        assert (await client.post("/", json={})).status_code == 307
    assert len(requests) == 1


async def test_a_connection_that_the_server_closed_while_idle_loses_the_call_and_sends_it_once() -> None:
    """The close crosses the second request on its way: the server reads it, and does not answer."""
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n{}"))
        writer.write(EMPTY)
        requests.append(await reader.readuntil(b"\r\n\r\n{}"))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with transport.Pool().client(Address(url=url)) as client:
            await client.post("/", json={})
            with pytest.raises(EngineLost, match="closed before an answer") as caught, transport.guarded("vLLM"):
                await client.post("/", json={})
    assert not isinstance(caught.value, EngineUnreachable)
    assert len(requests) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_refused_connection_is_unreachable_and_called_refused(host: str, free_port: int) -> None:
    async with transport.Pool().client(Address(url=f"http://{host}:{free_port}")) as client:
        with pytest.raises(EngineUnreachable, match=r"^vLLM: connection refused$"), transport.guarded("vLLM"):
            await client.get("/")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed before an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ncut", "in the middle of the answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ncut", "in the middle of the answer"),
    ],
)
async def test_a_broken_answer_is_a_lost_engine(serve: Serve, answer: bytes, words: str) -> None:
    url = await serve(answer)
    async with transport.Pool().client(Address(url=url)) as client:
        with pytest.raises(EngineLost, match=words) as caught, transport.guarded("vLLM"):
            await client.post("/", json={})
    assert "SSH" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout(""), TimeoutError(), OSError(), aiohttp.ClientError(), httpx.ConnectError("")]
)
def test_a_reason_is_never_empty(error: Exception) -> None:
    assert transport.reason(error)


def test_a_host_that_does_not_answer_is_told_from_one_that_refuses() -> None:
    with pytest.raises(EngineUnreachable, match="no connection within 5 s"), transport.guarded("vLLM"):
        raise httpx.ConnectTimeout("") from aiohttp.ConnectionTimeoutError()
