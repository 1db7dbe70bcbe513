"""The routes of the vLLM double."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Literal

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import BaseModel, Field, ValidationError

from aegis_workers.simulator.machine import Machine
from aegis_workers.simulator.pool import TooLittleFree
from aegis_workers.simulator.vllm import start, wire
from aegis_workers.simulator.vllm.chat import Chat
from aegis_workers.simulator.vllm.metrics import CONTENT_TYPE, Metrics
from aegis_workers.simulator.vllm.refusal import Refused, unreadable

_GUARDED = "/v1"
# How often a sleep that waits for the calls in flight looks again.
_LOOK_AGAIN_S = 0.01


class Rest(BaseModel):
    """The query of `/sleep` and `/pause`: what becomes of the calls in flight. Those that are kept run on here."""

    level: int = Field(1, ge=0, le=2)
    mode: Literal["abort", "wait", "keep"] = "abort"


def routes(machine: Machine) -> list[web.RouteDef]:
    """Every route, for one engine."""
    metrics = Metrics(options=machine.options, stats=machine.stats)
    status = Status(machine, metrics)
    always = [
        web.post("/v1/chat/completions", Chat(machine, metrics).handle),
        _get("/v1/models", status.models),
        _get("/health", status.health),
        _get("/ping", status.health),
        _get("/version", status.version),
        _get("/load", status.load),
        _get("/metrics", status.metrics),
        _get("/is_sleeping", status.is_sleeping),
    ]
    if not machine.options.dev_mode:
        return always
    return [
        *always,
        web.post("/sleep", status.sleep),
        web.post("/wake_up", status.wake_up),
        web.post("/pause", status.pause),
        web.post("/resume", status.resume),
        _get("/is_paused", status.is_paused),
    ]


def _json(value: Any, status: int = HTTPStatus.OK, more: Mapping[str, str] | None = None) -> web.Response:
    headers = {"Content-Type": "application/json", **(more or {})}
    return web.Response(body=wire.dumps(value).encode(), status=status, headers=headers)


def _get(path: str, handler: Handler) -> web.RouteDef:
    return web.get(path, handler, allow_head=False)


def middleware(api_key: str | None) -> Middleware:
    """What stands before every route: the key below `/v1`, and FastAPI's words for a path that is not there."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        guarded = api_key is not None and request.path.startswith(_GUARDED)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if guarded and (scheme.lower(), token) != ("bearer", api_key):
            return _json({"error": "Unauthorized"}, status=HTTPStatus.UNAUTHORIZED)
        try:
            return await handler(request)
        except Refused as refused:
            return _json(refused.body(), refused.status)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as wrong:
            allowed = {"Allow": wrong.headers["Allow"]} if "Allow" in wrong.headers else {}
            return _json({"detail": HTTPStatus(wrong.status).phrase}, wrong.status, allowed)

    return guard


class Status:
    """What an operator or a probe asks of the server."""

    def __init__(self, machine: Machine, metrics: Metrics) -> None:
        self._machine = machine
        self._metrics = metrics

    async def models(self, _: web.Request) -> web.StreamResponse:
        options = self._machine.options
        return _json(wire.model_list(options.served, options.context_tokens))

    async def health(self, _: web.Request) -> web.StreamResponse:
        down = self._machine.faults.behaviour.health_down
        return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE if down else HTTPStatus.OK)

    async def version(self, _: web.Request) -> web.StreamResponse:
        return _json({"version": wire.VERSION})

    async def load(self, _: web.Request) -> web.StreamResponse:
        counted_calls = self._machine.stats.in_flight if self._machine.options.load_tracking else 0
        return _json({"server_load": counted_calls})

    async def metrics(self, _: web.Request) -> web.StreamResponse:
        text = self._metrics.expose(asleep=self._machine.awake.closed)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def is_sleeping(self, _: web.Request) -> web.StreamResponse:
        asleep = self._machine.awake.closed
        if not (self._machine.options.dev_mode or asleep):
            raise web.HTTPNotFound
        return _json({"is_sleeping": asleep})

    async def sleep(self, request: web.Request) -> web.StreamResponse:
        rest = await self._rest(request)
        if rest.level and self._machine.options.sleep_frees_memory:
            self._machine.memory.give_back(start.WEIGHTS)
        return _json({"status": "sleeping", "level": rest.level})

    async def wake_up(self, _: web.Request) -> web.StreamResponse:
        self._wake()
        return _json({"status": "awake", "tags": None})

    async def pause(self, request: web.Request) -> web.StreamResponse:
        await self._rest(request)
        return _json({"status": "paused"})

    async def resume(self, _: web.Request) -> web.StreamResponse:
        self._wake()
        return _json({"status": "resumed"})

    async def is_paused(self, _: web.Request) -> web.StreamResponse:
        return _json({"is_paused": self._machine.awake.closed})

    def _wake(self) -> None:
        """Open the gate. Raises `Refused` where the memory that a sleep gave back is not free: the engine sleeps on."""
        try:
            self._machine.memory.take(start.WEIGHTS)
        except TooLittleFree:
            raise Refused("CUDA Error: out of memory", status=500, kind="InternalServerError") from None
        self._machine.awake.open()

    async def _rest(self, request: web.Request) -> Rest:
        """Close the gate, and end the calls in flight as the query asks."""
        try:
            rest = Rest.model_validate(dict(request.query))
        except ValidationError as error:
            raise unreadable(error, "query") from None
        self._machine.awake.close()
        if rest.mode == "abort":
            self._machine.timeline.interrupt()
        while rest.mode == "wait" and self._machine.stats.running:
            await self._machine.timeline.sleep(_LOOK_AGAIN_S)
        return rest
