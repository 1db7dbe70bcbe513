"""`POST /api/chat` and `POST /api/generate` of the Ollama double, from request to answer."""

import json
from collections.abc import Awaitable
from http import HTTPStatus

from aiohttp import web

from aegis_workers.simulator import generation
from aegis_workers.simulator.answer import Answer, Piece, compose
from aegis_workers.simulator.behaviour import Behaviour
from aegis_workers.simulator.machine import Machine
from aegis_workers.simulator.ollama.requests import Prompt, Refused, Request, canonical, check, fit, parse, understand
from aegis_workers.simulator.ollama.runners import Runners, wanted
from aegis_workers.simulator.ollama.wire import Reply, Route, Times, dumps
from aegis_workers.simulator.pool import TooLittleFree
from aegis_workers.simulator.slots import QueueFull
from aegis_workers.simulator.stats import counted

_JSON = {"Content-Type": "application/json; charset=utf-8"}
_LINES = {"Content-Type": "application/x-ndjson"}

_BUSY = "server busy, please try again.  maximum pending requests exceeded"
_NO_ROOM = "model requires more system memory ({lack.asked_gb:.1f} GiB) than is available ({lack.free_gb:.1f} GiB)"
_RUNNER_DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
_DIED_IN_STREAM = "an error was encountered while running the model: unexpected EOF"


def error(message: str, status: int) -> web.Response:
    """An error in Ollama's form."""
    return web.Response(status=status, body=dumps({"error": message}), headers=_JSON)


class Completions:
    """The two completion routes."""

    def __init__(self, machine: Machine, runners: Runners) -> None:
        self._machine = machine
        self._runners = runners

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/chat`."""
        return await self._answer(request, "chat")

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/generate`."""
        return await self._answer(request, "generate")

    async def _answer(self, request: web.Request, route: Route) -> web.StreamResponse:
        body = await request.read()
        asked = parse(body)
        if isinstance(asked, Request) and asked.asks_nothing:
            return await self._respond(self._load(asked, route))
        if self._machine.requests.kept and isinstance(asked, Request):
            self._machine.requests.add(json.loads(body))
        return await counted(self._machine.stats, self._respond(self._complete(request, asked, route)))

    async def _respond(self, answering: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        try:
            return await answering
        except QueueFull:
            return error(_BUSY, HTTPStatus.SERVICE_UNAVAILABLE)
        except TooLittleFree as lack:
            return error(_NO_ROOM.format(lack=lack), HTTPStatus.INTERNAL_SERVER_ERROR)
        except Refused as refused:
            return error(str(refused), refused.status)

    async def _complete(self, request: web.Request, asked: Request | Refused, route: Route) -> web.StreamResponse:
        if isinstance(asked, Refused):
            raise asked
        keep_alive_s = self._check(asked, route)
        fault = self._machine.faults.take()
        if fault.error_status is not None:
            raise Refused(fault.error_message or _RUNNER_DIED, status=fault.error_status)
        call = _Call(self._machine, request, asked, Reply(route=route, model=asked.model), fault)
        return await call.answer(self._runners, keep_alive_s)

    def _check(self, asked: Request, route: Route) -> float | None:
        if not asked.model and route == "chat":
            raise Refused("model is required")
        return check(asked, self._machine.options)

    async def _load(self, asked: Request, route: Route) -> web.StreamResponse:
        keep_alive_s = self._check(asked, route)
        reply = Reply(route=route, model=asked.model)
        model = canonical(asked.model)
        if keep_alive_s == 0:
            self._runners.unload(model)
            return web.Response(body=reply.state("unload"), headers=_JSON)
        need = wanted(model, asked.options or {}, self._machine.options.context_tokens)
        async with self._runners.use(need, keep_alive_s):
            return web.Response(body=reply.state("load"), headers=_JSON)


class _Call:
    """One accepted request that generates."""

    def __init__(self, machine: Machine, request: web.Request, asked: Request, reply: Reply, fault: Behaviour) -> None:
        self._machine = machine
        self._request = request
        self._asked = asked
        self._reply = reply
        self._fault = fault
        self._times = Times(begun_s=machine.timeline.now())
        self._sent = 0
        self._stream: web.StreamResponse | None = None

    async def answer(self, runners: Runners, keep_alive_s: float | None) -> web.StreamResponse:
        asked, machine = self._asked, self._machine
        await machine.admit(self._fault)
        need = wanted(canonical(asked.model), asked.options or {}, machine.options.context_tokens)
        async with runners.use(need, keep_alive_s) as runner:
            self._times.loaded_s = machine.timeline.now()
            prompt = self._read(need.num_ctx)
            ask = understand(asked, prompt, need.num_ctx)
            async with runner.slots.hold():
                response = await self._generate(compose(ask, self._fault), prompt.tokens)
            machine.tally.count(ask.text)
            return response

    def _read(self, num_ctx: int) -> Prompt:
        prompt = fit(self._asked, num_ctx)
        truncated = self._fault.truncated_prompt
        return prompt if truncated is None else Prompt(text=prompt.text, tokens=truncated)

    async def _generate(self, planned: Answer, prompt_tokens: int) -> web.StreamResponse:
        machine, times = self._machine, self._times
        times.read_from_s = machine.timeline.now()
        await machine.prefill(self._fault, prompt_tokens)
        times.read_s = machine.timeline.now()
        if self._asked.stream is False:
            answer = await generation.whole(machine.pace, planned)
            times.done_s = machine.timeline.now()
            return await self._whole(answer, prompt_tokens)
        answer = await generation.stream(machine.pace, planned, self._send)
        times.done_s = machine.timeline.now()
        return await self._end_stream(answer, prompt_tokens)

    async def _whole(self, answer: Answer, prompt_tokens: int) -> web.StreamResponse:
        fault = self._fault
        if fault.end == "error":
            return error(_RUNNER_DIED, HTTPStatus.INTERNAL_SERVER_ERROR)
        body = self._reply.unfinished(answer) if fault.end else self._reply.whole(answer, prompt_tokens, self._times)
        if fault.garbage:
            body = b"<html><body>not JSON</body></html>"
        if fault.drop_after_chunks is not None:
            await self._machine.drop_within(self._request, body, _JSON)
        return web.Response(body=body, headers=_JSON)

    async def _open_stream(self) -> web.StreamResponse:
        if self._stream is None:
            self._stream = web.StreamResponse(headers=_LINES)
            await self._stream.prepare(self._request)
        return self._stream

    async def _send(self, piece: Piece) -> None:
        stream = await self._open_stream()
        if self._sent == self._fault.drop_after_chunks:
            await self._machine.drop(self._request)
        self._sent += 1
        await stream.write(b'{"model":\n' if self._fault.garbage else self._reply.piece(piece))

    async def _end_stream(self, answer: Answer, prompt_tokens: int) -> web.StreamResponse:
        stream = await self._open_stream()
        if self._fault.end == "error":
            await stream.write(dumps({"error": _DIED_IN_STREAM}) + b"\n")
        elif self._fault.end is None:
            await stream.write(self._reply.end(answer, prompt_tokens, self._times))
        return stream
