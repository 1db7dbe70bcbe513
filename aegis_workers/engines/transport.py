"""The process's connections to its engines: one pool for all clients, and what is said when a connection breaks."""

import errno
import ssl
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict
from urllib.parse import unquote, urlsplit

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from aegis_workers.errors import EngineLost, EngineUnreachable

CONNECT_TIMEOUT_S = 5.0
# vLLM's server closes a connection that was idle for 5 s. Giving it up first keeps a call from meeting that close.
KEEP_ALIVE_S = 4.0

# A connection that cannot be made, or breaks, raises one of these through the ollama client as well.
ERRORS = (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError)

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ConnectionTimeoutError, f"no connection within {CONNECT_TIMEOUT_S:g} s"),
    (aiohttp.ClientConnectorDNSError, "the host name does not resolve"),
    (aiohttp.ClientSSLError, "TLS failed; check the certificate, and whether the address begins with http or https"),
    (aiohttp.ServerDisconnectedError, "the connection was closed before an answer came"),
    (aiohttp.ClientPayloadError, "the connection was lost in the middle of the answer"),
    (aiohttp.ClientResponseError, "what answers there does not speak HTTP"),
)
_NEVER_MADE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_ERRNO_REASONS = {errno.ECONNREFUSED: "connection refused", errno.ECONNRESET: "connection reset"}

# A proxy that compresses a stream holds its pieces back.
_PLAIN = {"Accept-Encoding": "identity"}
_JSON = {**_PLAIN, "Content-Type": "application/json"}
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a replica is: its base URL without credentials, and the `Authorization` header that goes with it, if any."""

    url: str
    authorization: str | None = None


def address(url: str, *, api_key: str | None = None) -> Address:
    """`url` taken apart; `api_key` becomes a bearer token and wins over a `user:password@` in the URL."""
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    if api_key is not None:
        return Address(url=bare, authorization=f"Bearer {api_key}")
    if parts.username is None:
        return Address(url=bare)
    basic = aiohttp.encode_basic_auth(unquote(parts.username), unquote(parts.password or ""))
    return Address(url=bare, authorization=basic)


class Options(TypedDict):
    """Arguments for an `httpx.AsyncClient`, or for the ollama client, which passes them on to one."""

    transport: httpx.AsyncBaseTransport
    headers: dict[str, str]
    auth: httpx.Auth
    timeout: httpx.Timeout
    trust_env: bool
    follow_redirects: bool


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A server's whole answer; its content is decoded."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    content: bytes

    @property
    def is_success(self) -> bool:
        """Whether the server did what it was asked."""
        return 200 <= self.status < 300  # noqa: PLR2004 - the borders of HTTP's classes

    def as_httpx(self) -> httpx.Response:
        """The answer as others read it."""
        headers = [(name, value) for name, value in self.headers if name.lower() != b"content-encoding"]
        return httpx.Response(self.status, headers=headers, content=self.content)


class Pool:
    """One aiohttp session for every client of the process, opened at the first request, closed with the last client.

    It belongs to the event loop of its first request. It has no limit of connections: slots limit the calls, and a smaller
    limit here would be a queue that nobody sees.
    """

    def __init__(self) -> None:
        self.tls = ssl.create_default_context()
        self._session: aiohttp.ClientSession | None = None
        self._borrowers = 0

    def options(self, place: Address) -> Options:
        """Arguments for one more HTTP client on this pool.

        Neither proxies nor credentials come from the environment; redirects are not followed; connecting takes 5 s at most and
        reading as long as the caller waits.
        """
        self._borrowers += 1
        return Options(
            transport=_Borrowed(self),
            headers=dict(_PLAIN),
            auth=_Credentials(place.authorization),
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            trust_env=False,
            follow_redirects=False,
        )

    def client(self, place: Address) -> httpx.AsyncClient:
        """A plain HTTP client for the replica at `place`."""
        return httpx.AsyncClient(base_url=place.url, **self.options(place))

    def session(self) -> aiohttp.ClientSession:
        """The session, opened if it is not; a loop must run."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, ssl=self.tls)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    async def post(self, place: Address, url: str, body: bytes, headers: Mapping[str, str]) -> Answered:
        """The whole answer to a JSON `body`, as a client of this pool would get it.

        Httpx's own way through a request takes more CPU than all else about a call. Raises what `guarded` explains.
        """
        credentials = {} if place.authorization is None else {"Authorization": place.authorization}
        sent = {**_JSON, **credentials, **headers}
        async with self.session().post(url, data=body, headers=sent, allow_redirects=False, timeout=_TIMEOUT) as response:
            return Answered(status=response.status, headers=response.raw_headers, content=await response.read())

    async def give_back(self) -> None:
        """One client less; the last one closes the connections."""
        self._borrowers -= 1
        if self._borrowers == 0 and self._session is not None:
            await self._session.close()


class _Borrowed(AiohttpTransport):
    def __init__(self, pool: Pool) -> None:
        super().__init__(verify=pool.tls, client=pool.session)
        self._pool = pool

    async def aclose(self) -> None:
        await self._pool.give_back()


class _Credentials(httpx.Auth):
    """The configured credentials and no others: the ollama client would send OLLAMA_API_KEY from the environment."""

    def __init__(self, authorization: str | None) -> None:
        self._authorization = authorization

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers.pop("Authorization", None)
        if self._authorization is not None:
            request.headers["Authorization"] = self._authorization
        yield request


@contextmanager
def guarded(where: str) -> Iterator[None]:
    """Turns a connection that broke into `EngineLost`, and one that was never made into `EngineUnreachable`.

    The original is not chained: a parser's complaint quotes the bytes that it could not read.
    """
    try:
        yield
    except ERRORS as error:
        kind = EngineUnreachable if isinstance(_original(error), _NEVER_MADE) else EngineLost
        raise kind(f"{where}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """Why a connection broke, in words; never empty."""
    original = _original(error)
    if isinstance(original, OSError) and original.errno in _ERRNO_REASONS:
        return _ERRNO_REASONS[original.errno]
    known = (words for kind, words in _REASONS if isinstance(original, kind))
    return next(known, repr(original))


def _original(error: BaseException) -> BaseException:
    """The error as aiohttp raised it: translated to httpx, a refused connection, and a closed one, is a connect timeout."""
    return error.__cause__ or error if isinstance(error, httpx.HTTPError) else error
