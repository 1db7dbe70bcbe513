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
from aegis_workers.simulator.ollama import routes as ollama
from aegis_workers.simulator.options import Options
from aegis_workers.simulator.stats import Stats
from aegis_workers.simulator.vllm import routes as vllm

__all__ = ["Options", "Running", "run", "start"]

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
        """Return once the simulator listens."""
        if self._listening is not None:
            await asyncio.shield(self._listening)

    async def stop(self) -> None:
        """End as the engine does at SIGTERM: vLLM answers its calls in flight with `abort`, Ollama closes their connections."""
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening
        if self._options.engine == "ollama":
            self._crash()
        else:
            self._close_listener()
            self._machine.timeline.end()
        await self._runner.cleanup()

    async def _start(self) -> None:
        await self._runner.setup()
        self._listening = asyncio.create_task(self._listen())
        if not self._delay_s:
            await self._listening

    @property
    def _delay_s(self) -> float:
        return self._options.start_seconds if self._options.engine == "vllm" else 0.0

    async def _listen(self) -> None:
        await self._machine.timeline.sleep(self._delay_s)
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
    Raises `OSError` where the address is taken.
    """
    running = Running(options, _reserve(options), clock or asyncio.get_running_loop(), die)
    await running._start()  # noqa: SLF001 - the second half of the construction, which must be awaited
    return running


def run(options: Options) -> None:
    """Serve until SIGTERM or SIGINT. Prints one line with the address; raises `OSError` where the address is taken."""
    asyncio.run(_serve(options))


async def _serve(options: Options) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    running = await start(options, die=lambda: os._exit(_KILLED))
    sys.stdout.write(f"{_introduction(running, options)}\n")
    sys.stdout.flush()
    await stopped.wait()
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
