"""A simulator in the test's own event loop, a time that stands still until a test moves it, and requests by hand."""

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import aiohttp

from aegis_workers.simulator.clock import Clock
from aegis_workers.simulator.server import Options, Running, start

WAIT_S = 20.0
# Turns of the event loop in which tasks that a timer woke come to their next wait, where no socket is between them.
_TURNS = 20

HELLO = {"model": "sim", "messages": [{"role": "user", "content": "Hello there."}]}
CHAT = {"vllm": "/v1/chat/completions", "ollama": "/api/chat"}
Engine = Literal["vllm", "ollama"]


class StillClock:
    """Time that passes only in `advance`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._order = count()
        self._due: list[tuple[float, int, _Timer]] = []

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], object], /) -> "_Timer":
        timer = _Timer(callback)
        heapq.heappush(self._due, (when, next(self._order), timer))
        return timer

    @property
    def timers(self) -> int:
        """Callbacks that are still due."""
        return sum(not timer.cancelled for _, _, timer in self._due)

    async def advance(self, seconds: float) -> None:
        end = self._now + seconds
        while self._due and self._due[0][0] <= end:
            when, _, timer = heapq.heappop(self._due)
            self._now = max(self._now, when)
            if not timer.cancelled:
                timer.callback()
                await settled()
        self._now = end
        await settled()


@dataclass
class _Timer:
    callback: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


async def settled() -> None:
    """Let every task run to its next wait."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds of this process's own objects; fails after some seconds."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


async def passing(clock: StillClock, call: "asyncio.Task[Any]") -> None:
    """Let time pass until `call` is done."""
    async with asyncio.timeout(WAIT_S):
        while not call.done():
            await clock.advance(1)
            await asyncio.sleep(0.001)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A response, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    json: Any


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A running simulator and a session with it."""

    engine: Engine
    running: Running
    http: aiohttp.ClientSession

    async def request(self, method: str, path: str, **arguments: Any) -> Reply:
        async with self.http.request(method, self.running.url + path, **arguments) as response:
            body = await response.read()
            is_json = response.content_type == "application/json" and body.startswith((b"{", b"["))
            value = await response.json() if is_json else None
            return Reply(status=response.status, headers=dict(response.headers), body=body, json=value)

    async def chat(self, **changes: Any) -> Reply:
        """One whole answer to `HELLO`, with `changes` of the request."""
        stream = {"stream": False} if self.engine == "ollama" else {}
        return await self.request("POST", CHAT[self.engine], json=HELLO | stream | changes)

    async def fault(self, **behaviour: Any) -> None:
        reply = await self.request("POST", "/_sim/behaviour", json=behaviour)
        assert reply.status == 200, reply.body


@asynccontextmanager
async def simulated(engine: Engine, *, clock: Clock | None = None, **options: Any) -> AsyncIterator[Simulated]:
    """A simulator that stops with the context."""
    running = await start(Options(engine=engine, **options), clock=clock)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            yield Simulated(engine=engine, running=running, http=http)
    finally:
        await running.stop()
