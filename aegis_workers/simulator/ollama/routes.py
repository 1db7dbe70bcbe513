"""The routes of the Ollama double."""

import ipaddress
import socket
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from aegis_workers.simulator.machine import Machine
from aegis_workers.simulator.ollama import wire
from aegis_workers.simulator.ollama.chat import Completions, error
from aegis_workers.simulator.ollama.requests import can_think, canonical
from aegis_workers.simulator.ollama.runners import Runners

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")


def routes(machine: Machine) -> list[web.RouteDef]:
    """Every route, for one engine."""
    runners = Runners(machine.timeline, machine.memory, machine.stats, machine.options)
    completions = Completions(machine, runners)
    status = Status(machine, runners)
    return [
        web.get("/", status.root),
        web.get("/api/version", status.version),
        web.get("/api/tags", status.tags),
        web.get("/api/ps", status.ps, allow_head=False),
        web.post("/api/show", status.show),
        web.post("/api/chat", completions.chat),
        web.post("/api/generate", completions.generate),
    ]


def middleware(bound_to: str) -> Middleware:
    """What stands before every route: the check of the Host header, and the router's words for a path that is not there."""
    checks_host = _is_loopback(bound_to)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if checks_host and not _is_local(request.headers.get("Host", "")):
            return web.Response(status=HTTPStatus.FORBIDDEN)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return web.Response(status=HTTPStatus.NOT_FOUND, text="404 page not found")
        except web.HTTPMethodNotAllowed:
            return web.Response(status=HTTPStatus.METHOD_NOT_ALLOWED, text="405 method not allowed")

    return guard


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_local(host_header: str) -> bool:
    host = host_header.rsplit(":", 1)[0] if not host_header.endswith("]") else host_header
    host = host.strip("[]").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in {"", "localhost", socket.gethostname().lower()} or host.endswith(_LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private


class Status:
    """What an operator or a probe asks of the server."""

    def __init__(self, machine: Machine, runners: Runners) -> None:
        self._machine = machine
        self._runners = runners

    async def root(self, _: web.Request) -> web.StreamResponse:
        return self._unless_down(web.Response(text="Ollama is running"))

    async def version(self, _: web.Request) -> web.StreamResponse:
        return self._unless_down(web.json_response({"version": wire.VERSION}))

    async def tags(self, _: web.Request) -> web.StreamResponse:
        return self._unless_down(web.json_response(wire.tags([canonical(name) for name in self._machine.options.served])))

    async def ps(self, _: web.Request) -> web.StreamResponse:
        return self._unless_down(web.json_response(wire.ps(self._runners.loaded())))

    async def show(self, request: web.Request) -> web.StreamResponse:
        try:
            asked: Any = await request.json()
            name = str(asked.get("model") or asked.get("name") or "")
        except (ValueError, AttributeError):
            return error("invalid character looking for beginning of value", HTTPStatus.BAD_REQUEST)
        if not name:
            return error("model is required", HTTPStatus.BAD_REQUEST)
        if canonical(name) not in map(canonical, self._machine.options.served):
            return error(f"model '{name}' not found", HTTPStatus.NOT_FOUND)
        context_tokens = self._machine.options.context_tokens
        return web.json_response(wire.show(canonical(name), context_tokens, thinks=can_think(name)))

    def _unless_down(self, response: web.Response) -> web.Response:
        """`response`, or the 503 that the fault `health_down` asks for."""
        if self._machine.faults.behaviour.health_down:
            return error("server is down", HTTPStatus.SERVICE_UNAVAILABLE)
        return response
