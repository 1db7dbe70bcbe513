"""What a simulator counts. At every moment `requests` = `in_flight` + `completed` + `aborted` + `rejected`."""

import asyncio
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

KEPT_REQUESTS = 100


@dataclass(kw_only=True)
class Stats:
    """Counts of completion calls, for `GET /_sim/stats`. Requests that only load or unload a model are none.

    `in_flight`: accepted and not answered, of which `running` hold a slot and the others wait. `completed`: answered with 200.
    `rejected`: answered with an error status. `aborted`: ended by the client's closing, or by a connection that we dropped.
    `loads` (Ollama) counts how often a model was brought into memory.
    """

    requests: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    running: int = 0
    max_running: int = 0
    completed: int = 0
    aborted: int = 0
    rejected: int = 0
    loads: int = 0

    @property
    def waiting(self) -> int:
        """Calls in flight that hold no slot."""
        return self.in_flight - self.running

    def begin(self) -> None:
        """A call came in."""
        self.requests += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def run(self) -> None:
        """A call took a slot."""
        self.running += 1
        self.max_running = max(self.max_running, self.running)

    def snapshot(self) -> dict[str, int]:
        """Every count by its name."""
        return {**vars(self), "waiting": self.waiting}

    def reset(self) -> None:
        """Begin counting anew; the calls in flight stay in the counts, so that the sum still holds."""
        self.requests = self.max_in_flight = self.in_flight
        self.max_running = self.running
        self.completed = self.aborted = self.rejected = self.loads = 0


class Requests:
    """The last request bodies, where the options ask for them."""

    def __init__(self, *, kept: bool) -> None:
        self._bodies: deque[Any] = deque(maxlen=KEPT_REQUESTS)
        self.kept = kept

    def add(self, body: Any) -> None:
        """Keep one body, or nothing where recording is off."""
        if self.kept:
            self._bodies.append(body)

    def all(self) -> list[Any]:
        """The bodies kept, the oldest first."""
        return list(self._bodies)

    def clear(self) -> None:
        """Forget them."""
        self._bodies.clear()


async def counted(stats: Stats, answering: Awaitable[web.StreamResponse]) -> web.StreamResponse:
    """The response of `answering`, a call that is counted in `stats` by how it ends."""
    stats.begin()
    answered = False
    try:
        response = await answering
        answered = True
    except ConnectionResetError:
        # The client left while we wrote: what aiohttp makes of it a moment later when nothing is being written.
        raise asyncio.CancelledError from None
    finally:
        stats.in_flight -= 1
        stats.aborted += not answered
    if response.status < web.HTTPBadRequest.status_code:
        stats.completed += 1
    else:
        stats.rejected += 1
    return response
