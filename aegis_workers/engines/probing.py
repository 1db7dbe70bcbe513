"""What clients share when they look at a replica: the time limit, and the words for one that is not well."""

from collections.abc import Awaitable, Callable

import anyio
import httpx

from aegis_workers.completion import CompletionRequest, Message, Sampling
from aegis_workers.engines import transport
from aegis_workers.engines.base import Probe, Readiness
from aegis_workers.engines.failure import Failure
from aegis_workers.routing import Engine

# The least that proves generation.
PROOF = CompletionRequest(messages=(Message(role="user", content="Hi"),), sampling=Sampling(max_tokens=1, temperature=0.0))


async def within(timeout_s: float, inspect: Callable[[], Awaitable[Probe]]) -> Probe:
    """What `inspect` finds; never raises. A replica that is silent, cannot be reached or talks nonsense is unavailable."""
    try:
        with anyio.fail_after(timeout_s):
            return await inspect()
    except TimeoutError:
        return Probe(readiness=Readiness.UNAVAILABLE, reason=f"no answer within {timeout_s:g} s")
    except httpx.HTTPStatusError as error:
        reason = f"HTTP {error.response.status_code} from {error.request.url.path}"
        return Probe(readiness=Readiness.UNAVAILABLE, reason=reason)
    except transport.ERRORS as error:
        return Probe(readiness=Readiness.UNAVAILABLE, reason=transport.reason(error))
    except (ValueError, AttributeError):
        return Probe(readiness=Readiness.UNAVAILABLE, reason="what answers there is not this engine; check its address")


def unwell(told: Failure, *, engine: Engine) -> Probe:
    """What a health check that failed means: a server that says so is starting, every other one is unavailable."""
    if told.status == 503 and told.says("starting", "loading", "warming"):  # noqa: PLR2004 - Service Unavailable
        return Probe(readiness=Readiness.STARTING, reason="starting (HTTP 503)")
    if told.status == 404:  # noqa: PLR2004 - Not Found
        reason = f"no {engine.label} there (HTTP 404); AEGIS_{engine.upper()}_URL is the base URL, without a path such as /v1"
        return Probe(readiness=Readiness.UNAVAILABLE, reason=reason)
    return Probe(readiness=Readiness.UNAVAILABLE, reason=f"not healthy (HTTP {told.status})")
