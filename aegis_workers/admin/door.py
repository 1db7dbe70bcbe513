"""Who may come in: asked before anything of a request is read."""

import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aegis_workers.admin import failures, page_routes

# Whether the server lives and can work is no secret, and its supervisor has no token. Nor is the page, which asks for one.
HEALTH_PATH = "/healthz"
READY_PATH = "/readyz"
_OPEN = frozenset({HEALTH_PATH, READY_PATH})
# The largest part of a request that is no upload is the schema of a job.
MAX_BODY_BYTES = 4_000_000
_TOO_LARGE = f"the body has more than {MAX_BODY_BYTES:,} bytes"


class Door:
    """Lets in who brings the token; where none is set, who asks for this host by a name of loopback.

    A page of another site, open in a browser on this host, can send requests to loopback: by a name of its own that it lets
    point there, or straight away. The `Host` or the `Origin` gives it away.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, unbounded: Mapping[str, str]) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._unbounded = unbounded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or _is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._objection(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        bounded = self._unbounded.get(scope["path"]) != scope["method"]
        await self._app(scope, _Bounded(receive) if bounded else receive, send)

    def _objection(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        if self._token is None:
            return _foreign(headers)
        if not hmac.compare_digest(_bearer(scope), self._token):
            return failures.answer(
                401,
                "the bearer token is missing or wrong: send the server's AEGIS_ADMIN_TOKEN as the API key",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return None


class _Bounded:
    """A body that ends the request once it is larger than any that is meant."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._size_bytes = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._size_bytes += len(message.get("body", b""))
        if self._size_bytes > MAX_BODY_BYTES:
            raise HTTPException(413, _TOO_LARGE)
        return message


def _is_open(path: str) -> bool:
    return path in _OPEN or page_routes.is_open(path)


def is_loopback(host: str) -> bool:
    """Whether an address, or the name that every system has for it, is this host alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _bearer(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = bytes(value).partition(b" ")
            return token.strip() if scheme.lower() == b"bearer" else b""
    return b""


def _foreign(headers: Headers) -> ASGIApp | None:
    host, origin = headers.get("host", ""), headers.get("origin")
    if not _names_loopback(f"//{host}"):
        what = "this host name is not one of loopback"
    elif origin is not None and not _names_loopback(origin):
        what = "a page of another site may not ask here"
    else:
        return None
    message = f"{what}: without AEGIS_ADMIN_TOKEN the server answers to localhost, 127.0.0.1 and [::1] only"
    return failures.answer(403, message, code="not_loopback")


def _names_loopback(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False
