"""OpenAI's chat completions, as far as both engines can do them: what a body asks for, and the form of an answer."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from aegis_workers.completion import Completion, CompletionRequest, Message
from aegis_workers.dispatch import inputs
from aegis_workers.dispatch.inputs import Options
from aegis_workers.errors import InvalidInput
from aegis_workers.extraction import schema as schemas
from aegis_workers.extraction.schema import Schema
from aegis_workers.settings import Settings

_ANY_OBJECT = {"type": "object"}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class _Turn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part] = Field(min_length=1)
    name: str | None = None
    refusal: None = None

    def message(self) -> Message:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role="system" if self.role == "developer" else self.role, content=content)


class _NamedSchema(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    name: str = "answer"
    description: str | None = None
    strict: bool | None = None
    source: dict[str, Any] = Field(alias="schema")


class _Format(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: _NamedSchema | None = None


class _Body(Options):
    """What is asked for changes the answer, and is done or refused; what only tells OpenAI of its caller is passed over."""

    deadline_s: None = None
    model: str | None = None
    messages: list[_Turn] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=inputs.MAX_ANSWER_TOKENS)
    response_format: _Format | None = None
    n: Literal[1] | None = None
    stream: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    store: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a body asks for. `schema`: what the answer is checked against, None for free text."""

    request: CompletionRequest
    schema: Schema | None


def read(body: Any, settings: Settings) -> Asked:
    """What `body` asks for; the model is that of the engine, whatever it names. Raises `InvalidInput`."""
    chosen = inputs.parse(_Body, body, "body")
    messages = tuple(turn.message() for turn in chosen.messages)
    if not all(message.content for message in messages):
        raise InvalidInput("body.messages: content must not be empty")
    inputs.check_size((message.content for message in messages), settings)
    chosen = chosen.model_copy(update={"max_tokens": chosen.max_completion_tokens or chosen.max_tokens})
    schema = _schema(chosen.response_format)
    request = CompletionRequest(
        messages=messages, schema=None if schema is None else schema.source, sampling=inputs.sampling(chosen, settings)
    )
    return Asked(request=request, schema=schema)


def _schema(chosen: _Format | None) -> Schema | None:
    match chosen and chosen.type:
        case "json_schema":
            if chosen is None or chosen.json_schema is None:
                raise InvalidInput("body.response_format.json_schema is missing")
            return schemas.compile(chosen.json_schema.source)
        case "json_object":
            return schemas.compile(_ANY_OBJECT)
        case _:
            return None


def answer_line(custom_id: str, name: str, model: str, said: Completion, extras: Mapping[str, Any]) -> dict[str, Any]:
    """The output line of a request that was answered. `name`: what ids are made of, another one for each request."""
    thoughts = {} if said.reasoning is None else {"reasoning_content": said.reasoning}
    message = {"role": "assistant", "content": said.text, "refusal": None, **thoughts}
    prompt_tokens, completion_tokens = said.prompt_tokens or 0, said.completion_tokens or 0
    body = {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": said.finish.value}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
    response = {"status_code": 200, "request_id": f"req_{name}", "body": body}
    return {"id": f"batch_req_{name}", "custom_id": custom_id, "response": response, "error": None, "aegis": dict(extras)}


def error_line(custom_id: str, name: str, error: Mapping[str, str], extras: Mapping[str, Any]) -> dict[str, Any]:
    """The output line of a request without an answer. `error`: its `code`, and its `message`."""
    return {"id": f"batch_req_{name}", "custom_id": custom_id, "response": None, "error": dict(error), "aegis": dict(extras)}
