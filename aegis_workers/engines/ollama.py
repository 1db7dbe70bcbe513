"""The Ollama client: its `/api/chat`, through the official `ollama` package."""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Final, cast

import httpx
import ollama

from aegis_workers.completion import Completion, CompletionRequest, Finish
from aegis_workers.engines import failure, ollama_lines, probing, transport, truncation, turns
from aegis_workers.engines.base import Probe, Readiness
from aegis_workers.engines.failure import Failure
from aegis_workers.errors import EngineBusy, EngineError, EngineLost, EngineWithdrew, RequestRefused
from aegis_workers.routing import Engine

_CHAT = "/api/chat"
# What Ollama says when the process that runs the model died, or never came up.
_DYING = ("llama-server process has terminated", "model runner has unexpectedly stopped", "runner process has terminated")
# A schema that cannot be followed is answered with 500, as if the engine were ill.
_SCHEMA = ("invalid format", "required for format", "grammar", "json schema", "json_schema")


class OllamaClient:
    """One Ollama replica. Satisfies `EngineClient`.

    Every request that reaches the model carries the same runner options: Ollama drains, unloads and reloads a model for a
    request whose `num_ctx` differs from the last one's.
    """

    engine: Final = Engine.OLLAMA

    def __init__(
        self, *, place: transport.Address, model: str, num_ctx: int, keep_alive: str, probe_timeout_s: float, pool: transport.Pool
    ) -> None:
        self.url: Final = place.url
        self._model = model
        self._num_ctx = num_ctx
        self._keep_alive = keep_alive
        self._probe_timeout_s = probe_timeout_s
        self._where = f"{self.engine.label} at {self.url}"
        # The hook reads failures before the official client does: that one drops their headers, and stumbles over odd bodies.
        hooks = {"response": [self._accept, ollama_lines.keep_whole]}
        self._client = ollama.AsyncClient(place.url, event_hooks=hooks, **pool.options(place))
        self._http = pool.client(place)

    async def complete(self, request: CompletionRequest) -> Completion:
        """See `EngineClient`."""
        call = self._call(request)
        with self._guarded():
            answer = await self._chat(call)
        return self._completion(request, answer, text=answer.message.content or "", thoughts=answer.message.thinking or "")

    async def stream(self, request: CompletionRequest) -> AsyncGenerator[str | Completion, None]:
        """See `EngineClient`. A cut prompt is found out at the end only, when the engine says how much it read."""
        call = self._call(request)
        text: list[str] = []
        thoughts: list[str] = []
        last = ollama.ChatResponse(message=ollama.Message(role="assistant"))
        with self._guarded():
            async with aclosing(await self._chat_stream(call)) as parts:
                async for last in parts:
                    thoughts.append(last.message.thinking or "")
                    if piece := last.message.content:
                        text.append(piece)
                        yield piece
        yield self._completion(request, last, text="".join(text), thoughts="".join(thoughts))

    async def probe(self) -> Probe:
        """See `EngineClient`. Ready where the model is on the server's disk: Ollama loads it on first use."""
        return await probing.within(self._probe_timeout_s, self._inspect)

    async def prove(self) -> None:
        """See `EngineClient`. Loads the model where it is not loaded."""
        await self.complete(probing.PROOF)

    async def warm_up(self) -> None:
        """See `EngineClient`. A chat without messages: Ollama's own way to say "load"."""
        await self._load(self._keep_alive)

    async def release(self) -> None:
        """See `EngineClient`. Returns at once; the memory comes back later, after the calls in flight."""
        await self._load(0)

    async def aclose(self) -> None:
        """See `EngineClient`."""
        await self._client.close()  # type: ignore[no-untyped-call]  # the package leaves it untyped
        await self._http.aclose()

    async def _load(self, keep_alive: str | int) -> None:
        with self._guarded():
            answer = await self._chat(
                {"model": self._model, "messages": [], "options": {"num_ctx": self._num_ctx}, "keep_alive": keep_alive}
            )
        if not answer.done:
            raise EngineWithdrew(f"{self._where} did not finish loading or unloading {self._model}")

    # The official client's `chat` has no argument for `truncate`; `_request`, on which it rests, takes any body.
    async def _chat(self, call: Mapping[str, Any]) -> ollama.ChatResponse:
        body = {**call, "stream": False}
        return await self._client._request(ollama.ChatResponse, "POST", _CHAT, json=body, stream=False)  # noqa: SLF001

    async def _chat_stream(self, call: Mapping[str, Any]) -> AsyncGenerator[ollama.ChatResponse, None]:
        body = {**call, "stream": True}
        opened = await self._client._request(ollama.ChatResponse, "POST", _CHAT, json=body, stream=True)  # noqa: SLF001
        # A generator, whatever its annotation says: closing it closes the connection.
        return cast("AsyncGenerator[ollama.ChatResponse, None]", opened)

    def _call(self, request: CompletionRequest) -> dict[str, Any]:
        sampling = request.sampling
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        return {
            "model": self._model,
            "messages": turns.encode(request),
            **({} if request.schema is None else {"format": request.schema}),
            "options": {
                "num_ctx": self._num_ctx,
                "num_predict": sampling.max_tokens,
                **{name: value for name, value in drawn.items() if value is not None},
            },
            "keep_alive": self._keep_alive,
            # Absent, it means yes for a model that can; a model that cannot accepts a no.
            "think": False,
            # Absent, it means yes: what does not fit is cut out, and the rest answered with success.
            "truncate": False,
        }

    def _completion(self, request: CompletionRequest, last: ollama.ChatResponse, *, text: str, thoughts: str) -> Completion:
        if not last.done or last.done_reason not in set(Finish):
            raise EngineLost(f"{self._where} ended the answer before it was done")
        if truncation.was_cut(request.messages, prompt_tokens=last.prompt_eval_count, context_tokens=self._num_ctx):
            raise RequestRefused(
                f"{self._where} cut the prompt to fit its context of {self._num_ctx} tokens: "
                "lower AEGIS_CHUNK_TOKENS or raise AEGIS_OLLAMA_NUM_CTX"
            )
        return Completion(
            text=text,
            finish=Finish(last.done_reason),
            reasoning=thoughts or None,
            prompt_tokens=last.prompt_eval_count,
            completion_tokens=last.eval_count,
        )

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """The official client's errors in our words. None is chained: they quote what the engine sent."""
        with transport.guarded(self._where):
            try:
                yield
            except ollama.ResponseError as error:
                # Errors with a status were raised by the hook; this one stood in a stream that had begun with 200.
                words = failure.spoken(error.error)
                raise EngineLost(f"{self._where} broke the answer off with an error", words=words) from None
            except (ValueError, TypeError, AttributeError):
                raise EngineBusy(f"{self._where} sent what is no chat answer; check that AEGIS_OLLAMA_URL is an Ollama") from None

    async def _accept(self, response: httpx.Response) -> None:
        if not response.is_success:
            raise self._error(await failure.read(response))

    def _error(self, told: Failure) -> EngineError:
        if told.is_internal and told.says(*_DYING):
            return EngineLost(f"{self._where} lost the process that runs {self._model}", words=told.words)
        if told.is_internal and told.says(*_SCHEMA):
            return RequestRefused(f"{self._where} cannot follow the schema; simplify it", words=told.words)
        return failure.explain(told, engine=self.engine, where=self._where, cure=self._cure(told))

    def _cure(self, told: Failure) -> str:
        match told.status:
            case 404 if told.says("not found") and not told.says("page not found"):
                return f"run `ollama pull {self._model}` there, or check AEGIS_OLLAMA_MODEL"
            case 400 if told.says("context length", "context size"):
                return "the prompt does not fit the context; lower AEGIS_CHUNK_TOKENS or raise AEGIS_OLLAMA_NUM_CTX"
            case 400 if told.says(*_SCHEMA):
                return "it cannot follow the schema; simplify it"
            case 403:
                return "it does not answer to this host name (set OLLAMA_HOST on the server), or the model is a cloud model"
            case _:
                return ""

    async def _inspect(self) -> Probe:
        version = await self._http.get("/api/version")
        if not version.is_success:
            return probing.unwell(await failure.read(version), engine=self.engine)
        models = await self._names("/api/tags")
        if _tagged(self._model) not in models:
            reason = f"the model {self._model} is not on this server; run `ollama pull {self._model}` there"
            return Probe(readiness=Readiness.UNAVAILABLE, reason=reason, models=models)
        return Probe(
            readiness=Readiness.READY,
            version=version.json().get("version"),
            models=models,
            loaded=_tagged(self._model) in await self._names("/api/ps"),
        )

    async def _names(self, path: str) -> tuple[str, ...]:
        response = await self._http.get(path)
        listed: Mapping[str, Any] = response.raise_for_status().json()
        return tuple(_tagged(str(model.get("model") or model.get("name"))) for model in listed.get("models") or ())


def _tagged(name: str) -> str:
    """`name` with the tag that Ollama implies; a colon before the last slash belongs to a host."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
