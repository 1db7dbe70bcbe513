"""A chat completion request as vLLM reads it, and what it refuses, in its words."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from aegis_workers.simulator import grammar
from aegis_workers.simulator.answer import Ask, count_prompt_tokens
from aegis_workers.simulator.options import Options
from aegis_workers.simulator.vllm.refusal import Refused, read_json, unreadable


def _joined(content: Any) -> Any:
    if not isinstance(content, list):
        return content or ""
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))


class Message(BaseModel):
    """One message; a content in parts is joined to one text."""

    role: str
    content: Annotated[str, BeforeValidator(_joined)] = ""


class StreamOptions(BaseModel):
    """What a stream says besides its text."""

    include_usage: bool = False


class JsonSchema(BaseModel):
    """A schema in OpenAI's wrapping."""

    name: str
    json_schema: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(BaseModel):
    """OpenAI's way to ask for structured output."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(BaseModel):
    """vLLM's own way to ask for structured output."""

    json_schema: dict[str, Any] | None = Field(None, alias="json")
    choice: list[str] = Field(default_factory=list)
    regex: str | None = None
    json_object: bool = False

    @property
    def kinds(self) -> int:
        """How many kinds of constraint are asked for; one is allowed."""
        return sum(map(bool, (self.json_schema is not None, self.choice, self.regex, self.json_object)))


class ChatRequest(BaseModel):
    """The fields that change an answer; like vLLM, unknown ones are ignored without a word."""

    model: str | None = None
    messages: list[Message]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    priority: int = 0
    request_id: str | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all messages."""
        return count_prompt_tokens([message.content for message in self.messages])

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with its token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def limit(self) -> int | None:
        """Tokens that the answer may have, as asked."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def parse(body: bytes, content_type: str) -> ChatRequest:
    """The request in `body`. Raises `Refused`."""
    value = read_json(body, content_type)
    if isinstance(value, dict) and "messages" in value and value["messages"] is None:
        raise Refused("'NoneType' object is not iterable")
    try:
        chat = ChatRequest.model_validate(value, from_attributes=True)
    except ValidationError as error:
        raise unreadable(error) from None
    if chat.stream_options is not None and not chat.stream:
        raise _wrong("stream_options", "Stream options can only be defined when `stream=True`.")
    return chat


def understand(chat: ChatRequest, options: Options) -> Ask:
    """What `chat` asks for. Raises `Refused` where vLLM does, checked in its order."""
    if chat.model is not None and chat.model not in options.served:
        raise Refused(
            f"The model `{chat.model}` does not exist. Valid aliases: {', '.join(options.served)}.",
            status=404,
            kind="NotFoundError",
            param="model",
        )
    if chat.temperature is not None and chat.temperature < 0:
        raise _wrong("temperature", f"temperature must be non-negative, got {chat.temperature}.", chat.temperature)
    if chat.top_p is not None and not 0 < chat.top_p <= 1:
        raise _wrong("top_p", f"top_p must be in (0, 1], got {chat.top_p}.", chat.top_p)
    if not chat.messages:
        raise Refused("Cannot apply chat template to an empty conversation. Provide at least one message.")
    user = next((message.content for message in reversed(chat.messages) if message.role == "user"), "")
    return Ask(text=user, max_tokens=_room(chat, options.context_tokens), **_guide(chat))


def _room(chat: ChatRequest, context: int) -> int:
    limit = chat.limit
    if limit is not None and limit < 1:
        raise _wrong("max_tokens", f"max_tokens must be at least 1, got {limit}.", limit)
    if limit is not None and limit > context:
        most = f"max_tokens={limit} cannot be greater than max_model_len={context}. Please request fewer output tokens."
        raise _wrong("max_tokens", most, limit)
    # The prompt is tokenised up to one token past the context, so that is the most that vLLM can say of it.
    if chat.prompt_tokens >= context:
        too_long = (
            f"This model's maximum context length is {context} tokens. However, your prompt contains at least {context + 1} "
            "input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
        )
        raise _wrong("input_tokens", too_long, context + 1)
    room = context - chat.prompt_tokens
    return room if limit is None else min(limit, room)


def _guide(chat: ChatRequest) -> dict[str, Any]:
    if chat.structured_outputs is not None:
        asked = chat.structured_outputs
        if asked.kinds > 1:
            raise Refused("You can only use one kind of constraints for structured outputs ('json', 'regex' or 'choice').")
        if asked.json_schema is not None:
            return {"schema": _checked(asked.json_schema)}
        return {"choices": asked.choice, "pattern": _compiled(asked.regex), "json_only": asked.json_object}
    wanted = chat.response_format
    if wanted is None or wanted.type == "text":
        return {}
    if wanted.type == "json_object":
        return {"json_only": True}
    if wanted.json_schema is None:
        without = "When response_format type is 'json_schema', the 'json_schema' field must be provided."
        raise _wrong("response_format", without)
    return {"schema": _checked(wanted.json_schema.json_schema or {})}


def _checked(schema: dict[str, Any]) -> dict[str, Any]:
    problem = grammar.find_problem(schema, unimplemented=("uniqueItems",))
    if problem is not None:
        raise Refused(f"Grammar error: {problem}")
    return schema


def _compiled(pattern: str | None) -> str | None:
    try:
        re.compile(pattern or "")
    except re.error:
        raise Refused(f"Grammar error: at 1(8): invalid regex {json.dumps(pattern)} (in regex): regex parse error:") from None
    return pattern


def _wrong(parameter: str, message: str, value: float | None = None) -> Refused:
    """The refusal of one parameter's value, which vLLM adds to its words."""
    found = "" if value is None else f", value={value}"
    return Refused(f"{message} (parameter={parameter}{found})", param=parameter)
