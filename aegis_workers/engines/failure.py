"""An engine's answer that is no success: its status, its words, and what they mean on any engine."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from aegis_workers.errors import EngineBusy, EngineError, RequestRefused
from aegis_workers.routing import Engine

# Enough for any engine's message; a proxy may answer with a whole page.
WORDS_MAX_CHARS = 2000

# The 4xx that say "not now": request timeout, too early, too many requests, and a proxy's "client closed request".
_NOT_NOW = frozenset({408, 425, 429, 499})
_SERVER_ERROR = 500


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What came instead of an answer. `words` may echo the prompt; `retry_after_s` is the server's wish."""

    status: int
    words: str
    retry_after_s: float | None = None

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in _NOT_NOW or self.status >= _SERVER_ERROR

    @property
    def is_internal(self) -> bool:
        """Whether it is the plain 500, the status under which engines say everything that went wrong inside."""
        return self.status == _SERVER_ERROR

    def says(self, *marks: str) -> bool:
        """Whether any of `marks` (lower case) is in the words."""
        words = self.words.lower()
        return any(mark in words for mark in marks)


async def read(response: httpx.Response) -> Failure:
    """The failure that `response` is; reads its body."""
    await response.aread()
    return Failure(
        status=response.status_code,
        words=_words(response.text),
        retry_after_s=_retry_after_s(response.headers.get("Retry-After")),
    )


def spoken(said: Any) -> str:
    """The message in an error of any form: an object or a plain string, in `error`, `message` or `detail`."""
    while isinstance(said, dict):
        said = next((said[key] for key in ("error", "message", "detail") if said.get(key)), "")
    return (said if isinstance(said, str) else json.dumps(said))[:WORDS_MAX_CHARS]


def _words(body: str) -> str:
    try:
        return spoken(json.loads(body))
    except (ValueError, RecursionError):
        return body[:WORDS_MAX_CHARS]


def _retry_after_s(value: str | None) -> float | None:
    """Both forms of RFC 9110, section 10.2.3: seconds, or a date; None for anything else."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(date: str) -> float:
    try:
        return (parsedate_to_datetime(date).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return math.nan


def explain(failure: Failure, *, engine: Engine, where: str, cure: str = "") -> EngineError:
    """The error for a failure that has no meaning of its own on `engine`; a refusal names `cure`, or what its status suggests."""
    if failure.is_passing:
        return EngineBusy(
            f"{where} could not serve the request now (HTTP {failure.status})",
            words=failure.words,
            retry_after_s=failure.retry_after_s,
            status=failure.status,
        )
    advice = cure or _advice(failure.status, engine)
    return RequestRefused(f"{where} refused the request (HTTP {failure.status}): {advice}", words=failure.words)


def _advice(status: int, engine: Engine) -> str:
    address = f"AEGIS_{engine.upper()}_URL"
    match status:
        case 401 | 403 | 407:
            return f"check the credentials, and that {address} is the engine's own address"
        case 413:
            return "it is larger than the server accepts; lower AEGIS_CHUNK_TOKENS"
        case 404 | 405 | 410:
            return f"no such service there; check that {address} is the server's base URL, without a path such as /v1"
        case _ if status < 400:  # noqa: PLR2004 - the border of HTTP's classes
            return f"it redirects elsewhere; set {address} to the engine's own address"
        case _:
            return "the engine's own words are in the result"
