"""A simulator as a server: started inside a test, or alone until it is told to stop."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web

from aegis_workers.simulator import control
from aegis_workers.simulator.clock import Clock
from aegis_workers.simulator.machine import Machine
from aegis_workers.simulator.memory import SETTLE_EVERY_S
from aegis_workers.simulator.ollama import routes as ollama
from aegis_workers.simulator.options import Options
from aegis_workers.simulator.pool import PoolUnusable
from aegis_workers.simulator.stats import Stats
from aegis_workers.simulator.vllm import routes as vllm
from aegis_workers.simulator.vllm import start as vllm_start
from aegis_workers.simulator.vllm.start import StartFailed

__all__ = ["Options", "PoolUnusable", "Running", "StartFailed", "run", "start"]

# Longer than any prompt of a test; the engines themselves set no limit.
_MAX_BODY_BYTES = 64 * 2**20
# Answers that the engine's end cut short are written within it; only a client that reads nothing needs longer.
_ENDING_S = 1.0
# Connections that may wait to be accepted: a load test opens hundreds at once.
_BACKLOG = 1024
# The exit status of a process that was killed, which is what a crash looks like to a supervisor.
_KILLED = 137


class Running:
    """A simulator that was started. `stats` counts its calls."""

    def __init__(self, options: Options, listener: socket.socket, clock: Clock, die: Callable[[], None] | None) -> None:
        self._options = options
        self._listener = listener
        self._port = int(listener.getsockname()[1])
        self._machine = Machine(options, clock, die or self._crash)
        self._runner = web.AppRunner(
            _application(self._machine),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_ENDING_S,
        )
        self._listening: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None

    @property
    def stats(self) -> Stats:
        """Counts of the calls so far."""
        return self._machine.stats

    @property
    def port(self) -> int:
        """The port that the simulator listens on, or will."""
        return self._port

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        return f"http://{self._options.host}:{self.port}"

    async def ready(self) -> None:
        """Return once the simulator listens. Raises `StartFailed` where it never will."""
        if self._listening is not None:
            await asyncio.shield(self._listening)

    async def stop(self) -> None:
        """End as the engine does at SIGTERM: vLLM answers its calls in flight with `abort`, Ollama closes their connections."""
        for task in filter(None, (self._listening, self._settling)):
            task.cancel()
            with suppress(asyncio.CancelledError, StartFailed, PoolUnusable):
                await task
        if self._options.engine == "ollama":
            self._crash()
        else:
            self._close_listener()
            self._machine.timeline.end()
        await self._runner.cleanup()
        with suppress(PoolUnusable):  # a test's folder may be gone
            self._machine.memory.give_all_back()

    async def _start(self) -> None:
        self._take_memory()
        await self._runner.setup()
        self._settling = asyncio.create_task(self._settle()) if self._machine.memory.pool is not None else None
        self._listening = asyncio.create_task(self._listen())
        if not self._delay_s:
            await self._listening

    def _take_memory(self) -> None:
        self._machine.memory.open()
        if self._options.engine == "vllm":
            vllm_start.take_memory(self._machine.memory)

    async def _settle(self) -> None:
        """Keep the pool's figures true while this simulator runs: memory comes back also of one that nobody asks any more."""
        while True:
            await asyncio.sleep(SETTLE_EVERY_S)
            self._machine.memory.settle()

    @property
    def _delay_s(self) -> float:
        return self._options.start_seconds if self._options.engine == "vllm" else 0.0

    async def _listen(self) -> None:
        await self._machine.timeline.sleep(self._delay_s)
        if self._options.engine == "vllm":
            vllm_start.survive(self._options)
        protocol = self._runner.server
        if protocol is not None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(protocol, sock=self._listener, backlog=_BACKLOG)

    def _crash(self) -> None:
        """Stop listening and reset every connection, as the death of a process does."""
        self._close_listener()
        protocol = self._runner.server
        for connection in protocol.connections if protocol is not None else ():
            if connection.transport is not None:
                connection.transport.abort()

    def _close_listener(self) -> None:
        if self._server is not None:
            self._server.close()
        self._listener.close()


async def start(options: Options, *, clock: Clock | None = None, die: Callable[[], None] | None = None) -> Running:
    """A simulator in the running event loop, listening (vLLM with `start_seconds`: reserved, and listening after that time).

    `clock` replaces the event loop's time; `die` replaces what the fault of that name does: by default all sockets close hard.
    Raises `OSError` where the address is taken, `StartFailed` where too little memory is free for vLLM, `PoolUnusable`.
    """
    running = Running(options, _reserve(options), clock or asyncio.get_running_loop(), die)
    try:
        await running._start()  # noqa: SLF001 - the second half of the construction, which must be awaited
    except BaseException:
        await running.stop()
        raise
    return running


def run(options: Options) -> None:
    """Serve until SIGTERM or SIGINT. Prints one line with the address.

    Raises `OSError` where the address is taken, `StartFailed` where the engine ends while it starts, `PoolUnusable`.
    """
    asyncio.run(_serve(options))


async def _serve(options: Options) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    running = await start(options, die=lambda: os._exit(_KILLED))
    sys.stdout.write(f"{_introduction(running, options)}\n")
    sys.stdout.flush()
    starting, told = asyncio.ensure_future(running.ready()), asyncio.ensure_future(stopped.wait())
    try:
        await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await told
    finally:
        told.cancel()
        await running.stop()


def _introduction(running: Running, options: Options) -> str:
    name = {"vllm": "vLLM", "ollama": "Ollama"}[options.engine]
    wait = f", from {options.start_seconds:g} s after this line" if options.engine == "vllm" and options.start_seconds else ""
    return f"{name} simulator (not a language model: answers come from simple rules) on {running.url}{wait}"


def _reserve(options: Options) -> socket.socket:
    """A bound socket that does not listen yet: its port is known, and connecting to it is refused."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)  # noqa: FBT003 - the standard library's own signature
    return listener


def _application(machine: Machine) -> web.Application:
    options = machine.options
    match options.engine:
        case "vllm":
            guard, engine_routes = vllm.middleware(options.api_key), vllm.routes(machine)
        case "ollama":
            guard, engine_routes = ollama.middleware(options.host), ollama.routes(machine)
    application = web.Application(middlewares=[guard], client_max_size=_MAX_BODY_BYTES)
    application.add_routes([*engine_routes, *control.routes(machine)])
    return application
