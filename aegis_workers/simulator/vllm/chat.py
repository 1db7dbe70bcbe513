"""`POST /v1/chat/completions` of the vLLM double, from request to answer."""

import json
from functools import partial
from http import HTTPStatus

from aiohttp import web

from aegis_workers.simulator import generation
from aegis_workers.simulator.answer import Answer, Ask, Piece, compose
from aegis_workers.simulator.behaviour import Behaviour
from aegis_workers.simulator.clock import Interrupted
from aegis_workers.simulator.machine import Machine
from aegis_workers.simulator.slots import QueueFull, Slots
from aegis_workers.simulator.stats import counted
from aegis_workers.simulator.vllm.metrics import Metrics
from aegis_workers.simulator.vllm.refusal import Refused
from aegis_workers.simulator.vllm.requests import ChatRequest, parse, understand
from aegis_workers.simulator.vllm.wire import DONE, Reply, dumps, event

_JSON = {"Content-Type": "application/json"}
_EVENTS = {"Content-Type": "text/event-stream; charset=utf-8"}

_BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
_ENGINE_DIED = "EngineCore encountered an issue. See stack trace (above) for the root cause."


class Chat:
    """The completion route."""

    def __init__(self, machine: Machine, metrics: Metrics) -> None:
        self._machine = machine
        self._metrics = metrics
        options = machine.options
        self._slots = Slots(machine.timeline, machine.stats, size=options.slots, bound=options.queue_bound)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The answer, whole or streamed, or an error object."""
        return await counted(self._machine.stats, self._respond(request))

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._serve(request)
        except Refused as refused:
            return web.Response(status=refused.status, body=dumps(refused.body()).encode(), headers=_JSON)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        chat = parse(body, request.headers.get("Content-Type", ""))
        if self._machine.requests.kept:
            self._machine.requests.add(json.loads(body))
        ask = understand(chat, self._machine.options)
        fault = self._machine.faults.take()
        if fault.error_status is not None:
            raise _ordered(fault.error_status, fault.error_message)
        return await _Call(self._machine, self._metrics, self._slots, request, chat, fault).answer(ask)


def _ordered(status: int, message: str | None) -> Refused:
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"
    kind = "InternalServerError" if status == HTTPStatus.INTERNAL_SERVER_ERROR else phrase
    return Refused(message or _ENGINE_DIED, status=status, kind=kind)


class _Call:
    """One accepted request."""

    def __init__(
        self, machine: Machine, metrics: Metrics, slots: Slots, request: web.Request, chat: ChatRequest, fault: Behaviour
    ) -> None:
        self._machine = machine
        self._metrics = metrics
        self._slots = slots
        self._request = request
        self._chat = chat
        self._fault = fault
        self._begun_at = machine.timeline.now()
        self._prompt_tokens = chat.prompt_tokens if fault.truncated_prompt is None else fault.truncated_prompt
        self._reply = self._open_reply()
        self._sent = 0
        self._finished = False
        self._stream: web.StreamResponse | None = None

    def _open_reply(self) -> Reply:
        reply = Reply(
            model=self._chat.model or self._machine.options.served[0],
            prompt_tokens=self._prompt_tokens,
            reasoning_field=self._fault.reasoning_field,
        )
        asked_id = self._request.headers.get("X-Request-Id") or self._chat.request_id
        return reply.named(asked_id) if asked_id else reply

    async def answer(self, ask: Ask) -> web.StreamResponse:
        planned = compose(ask, self._fault)
        try:
            await self._machine.admit(self._fault)
            async with self._slots.hold():
                await self._machine.prefill(self._fault, self._prompt_tokens)
                answer = await self._generate(planned)
            self._machine.tally.count(ask.text)
        except QueueFull:
            self._metrics.count_rejection()
            raise Refused(_BUSY, status=503, kind="Service Unavailable") from None
        except Interrupted:
            answer = planned.cut(0, generation.ABORT)
        self._metrics.count_answer(self._prompt_tokens, answer, self._machine.timeline.now() - self._begun_at)
        return await (self._end_stream(answer) if self._chat.stream else self._whole(answer))

    async def _generate(self, planned: Answer) -> Answer:
        if not self._chat.stream:
            return await generation.whole(self._machine.pace, planned)
        await self._open_stream()
        return await generation.stream(self._machine.pace, planned, partial(self._send, planned.finish))

    async def _whole(self, answer: Answer) -> web.StreamResponse:
        fault = self._fault
        if fault.end == "error":
            raise Refused(_ENGINE_DIED, status=500, kind="InternalServerError")
        body = self._reply.whole(answer, None if fault.end else answer.finish)
        if fault.garbage:
            body = b"<html><body>not JSON</body></html>"
        if fault.drop_after_chunks is not None:
            await self._machine.drop_within(self._request, body, _JSON)
        return web.Response(body=body, headers=_JSON)

    async def _open_stream(self) -> web.StreamResponse:
        if self._stream is None:
            self._stream = web.StreamResponse(headers=_EVENTS)
            await self._stream.prepare(self._request)
            await self._stream.write(self._reply.first())
        return self._stream

    async def _send(self, finish: str, piece: Piece) -> None:
        stream = await self._open_stream()
        if self._sent == self._fault.drop_after_chunks:
            await self._machine.drop(self._request)
        self._sent += 1
        if self._fault.garbage:
            await stream.write(b'data: {"choices": [\n\n')
            return
        self._finished = piece.last and self._fault.end is None
        if self._finished:
            await stream.write(self._reply.end(finish, piece, closes=not self._chat.wants_usage))
        else:
            await stream.write(self._reply.piece(piece))

    async def _end_stream(self, answer: Answer) -> web.StreamResponse:
        stream = await self._open_stream()
        match self._fault.end:
            case "missing":
                return stream
            case "error":
                died = Refused(_ENGINE_DIED, status=500, kind="InternalServerError")
                await stream.write(event(died.body()) + DONE)
                return stream
            case "unfinished":
                await stream.write(DONE)
                return stream
            case None:
                counted_last = self._chat.wants_usage
                end = b"" if self._finished else self._reply.end(answer.finish, closes=not counted_last)
                usage = self._reply.usage(answer) if counted_last else b""
                await stream.write(end + usage + DONE)
                return stream
