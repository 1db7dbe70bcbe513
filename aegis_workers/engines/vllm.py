"""The vLLM client: its OpenAI-compatible chat API."""

import json
import re
from collections.abc import AsyncGenerator
from typing import Any, Final

import httpx
from pydantic import ValidationError

from aegis_workers.completion import Completion, CompletionRequest
from aegis_workers.engines import failure, probing, sse, transport, turns, vllm_wire
from aegis_workers.engines.base import Probe, Readiness
from aegis_workers.engines.failure import Failure
from aegis_workers.errors import EngineBusy, EngineDying, EngineError, EngineLost, EngineWithdrew
from aegis_workers.routing import Engine

CHAT_PATH = "/v1/chat/completions"

# What a server says whose engine process died, and one that was told to stop and lets its last calls end.
_DYING = "enginecore encountered an issue"
_DRAINING = "cannot schedule new futures after shutdown"
_DONE = "[DONE]"
# Exact names: each has a neighbour that begins like it (`num_requests_waiting_by_reason`).
_GAUGE = re.compile(r"^vllm:num_requests_(running|waiting)(?:\{[^}]*\})? (\S+)", re.MULTILINE)


class VllmClient:
    """One vLLM replica. Satisfies `EngineClient`."""

    engine: Final = Engine.VLLM

    def __init__(self, *, place: transport.Address, model: str, probe_timeout_s: float, pool: transport.Pool) -> None:
        self.url: Final = place.url
        self._model = model
        self._probe_timeout_s = probe_timeout_s
        self._where = f"{self.engine.label} at {self.url}"
        self._pool = pool
        self._place = place
        self._http = pool.client(place)
        self._chat_url = httpx.URL(self.url + CHAT_PATH)  # whole and parsed: joining it costs 0.06 ms a call

    async def complete(self, request: CompletionRequest) -> Completion:
        """See `EngineClient`."""
        body = json.dumps(self._body(request), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        with transport.guarded(self._where):
            response = await self._pool.post(self._place, str(self._chat_url), body, _headers(request))
            if not response.is_success:
                await self._accept(response.as_httpx())
        return vllm_wire.completion(self._answer(response.content), where=self._where)

    async def stream(self, request: CompletionRequest) -> AsyncGenerator[str | Completion, None]:
        """See `EngineClient`. Ends as it should where a finish reason came and the connection closed in order."""
        body = {**self._body(request), "stream": True, "stream_options": {"include_usage": True}}
        draft = vllm_wire.Draft()
        parser = sse.Parser()
        with transport.guarded(self._where):
            async with self._http.stream("POST", self._chat_url, json=body, headers=_headers(request)) as response:
                await self._accept(response)
                # Read to the end, past [DONE]: a connection that is left before it cannot be used again.
                async for piece in response.aiter_bytes():
                    for data in parser.feed(piece):
                        if data != _DONE and (text := draft.add(self._answer(data))):
                            yield text
        yield vllm_wire.completion(draft.whole(), where=self._where)

    async def probe(self) -> Probe:
        """See `EngineClient`."""
        return await probing.within(self._probe_timeout_s, self._inspect)

    async def prove(self) -> None:
        """See `EngineClient`."""
        await self.complete(probing.PROOF)

    async def warm_up(self) -> None:
        """Nothing: a vLLM that answers has its model in memory."""

    async def release(self) -> None:
        """Nothing: a vLLM gives its memory back when it ends."""

    async def aclose(self) -> None:
        """See `EngineClient`."""
        await self._http.aclose()

    def _body(self, request: CompletionRequest) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self._model,
            "messages": turns.encode(request),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
        if request.schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": request.schema}}
        return {name: value for name, value in body.items() if value is not None}

    async def _accept(self, response: httpx.Response) -> None:
        if not response.is_success:
            raise self._error(await failure.read(response))

    def _answer(self, body: bytes | str) -> vllm_wire.Answer:
        try:
            answer = vllm_wire.Answer.model_validate_json(body)
        except ValidationError:
            # Not chained: it quotes the answer.
            raise EngineBusy(f"{self._where} sent what is no chat completion; check that AEGIS_VLLM_URL is a vLLM") from None
        if answer.error is not None:
            raise self._broken_off(answer.error)
        return answer

    def _broken_off(self, error: Any) -> EngineError:
        code = error.get("code") if isinstance(error, dict) else None
        told = Failure(status=code if isinstance(code, int) else 500, words=failure.spoken(error))
        if told.is_passing and self._ending(told) is None:
            return EngineLost(f"{self._where} broke the answer off with an error", words=told.words)
        return self._error(told)

    def _ending(self, told: Failure) -> EngineLost | None:
        """The loss of a server that ends. One that drains answers its health check with success: only a call finds out."""
        if told.is_internal and told.says(_DYING):
            return EngineDying(f"{self._where} is going down: its engine process died", words=told.words)
        if told.is_internal and told.says(_DRAINING):
            return EngineWithdrew(f"{self._where} is going down: it was told to stop", words=told.words)
        return None

    def _error(self, told: Failure) -> EngineError:
        return self._ending(told) or failure.explain(told, engine=self.engine, where=self._where, cure=self._cure(told))

    def _cure(self, told: Failure) -> str:
        match told.status:
            case 401:
                return "check AEGIS_VLLM_API_KEY against the server's --api-key"
            case 404 if told.says("model"):
                return f"check AEGIS_VLLM_MODEL={self._model} against the server's --served-model-name"
            case 400 | 422 if told.says("context length", "max_model_len", "maximum model length"):
                return (
                    "prompt and answer do not fit the model's context; lower AEGIS_CHUNK_TOKENS or AEGIS_ANSWER_TOKENS, "
                    "or raise the server's --max-model-len"
                )
            case 400 | 422 if told.says("grammar", "schema", "response_format"):
                return "its structured output cannot follow this schema; simplify the schema"
            case _:
                return ""

    async def _inspect(self) -> Probe:
        health = await self._http.get("/health")
        if not health.is_success:
            return probing.unwell(await failure.read(health), engine=self.engine)
        if await self._is_asleep():
            return Probe(readiness=Readiness.UNAVAILABLE, reason="asleep")
        listed = await self._http.get("/v1/models")
        if not listed.is_success:
            told = await failure.read(listed)
            return Probe(readiness=Readiness.UNAVAILABLE, reason=self._cure(told) or f"HTTP {told.status} from /v1/models")
        return await self._serving(tuple(card.id for card in vllm_wire.ModelList.model_validate_json(listed.content).data))

    async def _is_asleep(self) -> bool:
        """Asleep, it is healthy and every call hangs. Outside of vLLM's developer mode there is no such page, and no sleep."""
        response = await self._http.get("/is_sleeping")
        return response.is_success and response.json().get("is_sleeping") is True

    async def _serving(self, models: tuple[str, ...]) -> Probe:
        if self._model not in models:
            offered = ", ".join(models) or "nothing"
            return Probe(
                readiness=Readiness.UNAVAILABLE,
                reason=f"it serves {offered}, not {self._model}; check AEGIS_VLLM_MODEL against the server's --served-model-name",
                models=models,
            )
        version = await self._http.get("/version")
        metrics = await self._http.get("/metrics")
        counts = _counts(metrics.text) if metrics.is_success else {}
        return Probe(
            readiness=Readiness.READY,
            version=version.json().get("version") if version.is_success else None,
            models=models,
            loaded=True,
            running=counts.get("running"),
            waiting=counts.get("waiting"),
        )


def _headers(request: CompletionRequest) -> dict[str, str]:
    return {} if request.request_id is None else {"X-Request-Id": request.request_id}


def _counts(metrics: str) -> dict[str, int]:
    """Requests running and waiting, summed over the server's engines; an absent gauge is absent."""
    counts: dict[str, int] = {}
    for name, value in _GAUGE.findall(metrics):
        counts[name] = counts.get(name, 0) + int(float(value))
    return counts
