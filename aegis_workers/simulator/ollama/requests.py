"""A chat or generate request as Ollama reads it, and what it refuses, in its words."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from aegis_workers.simulator import grammar
from aegis_workers.simulator.answer import TOKEN_CHARS, Ask, count_prompt_tokens
from aegis_workers.simulator.ollama import durations
from aegis_workers.simulator.options import Options

THINKING_SUFFIX = "-think"

_THOUGHTS = "The user wants an answer. I should give one."
_MAX_LOGPROBS = 20
# num_predict -1 is bounded to so many contexts.
_UNBOUNDED_CONTEXTS = 10
_TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the context "
    "length in settings, or use a model with a longer context length"
)


class Refused(Exception):
    """Ollama answers with an error."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Message(BaseModel):
    """One message."""

    role: str
    content: Annotated[str, BeforeValidator(lambda content: content or "")] = ""


class Request(BaseModel):
    """The fields that change an answer; like Ollama, unknown ones are ignored without a word.

    `messages` is of `/api/chat`; `prompt` and `system` are of `/api/generate`.
    """

    model_config = ConfigDict(strict=True)

    model: str = ""
    messages: list[Message] = Field(default_factory=list)
    prompt: str = ""
    system: str = ""
    stream: bool | None = None
    format: Any = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None
    think: bool | str | None = None
    truncate: bool | None = None
    shift: bool | None = None
    top_logprobs: int = 0

    @property
    def asks_nothing(self) -> bool:
        """Whether the request only loads or unloads."""
        return not self.messages and not self.prompt

    @property
    def turns(self) -> list[Message]:
        """The conversation, whichever route it came by."""
        if self.messages:
            return self.messages
        system = [Message(role="system", content=self.system)] if self.system else []
        return [*system, Message(role="user", content=self.prompt)]


def parse(body: bytes) -> Request | Refused:
    """The request in `body`, or why there is none."""
    if not body:
        return Refused("missing request body")
    try:
        return Request.model_validate_json(body)
    except ValidationError as error:
        return Refused(_in_go_words(error))


def _in_go_words(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(part for part in problem["loc"] if isinstance(part, str))
    if problem["type"] == "json_invalid" or not where:
        return "unexpected EOF" if "EOF" in problem["msg"] else "invalid character looking for beginning of value"
    kinds = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
    return f"json: cannot unmarshal {kinds.get(type(problem['input']), 'value')} into Go struct field ChatRequest.{where}"


def canonical(model: str) -> str:
    """The model's full name: without a tag it is `latest`."""
    return model if ":" in model else f"{model}:latest"


def check(request: Request, options: Options) -> float | None:
    """The request's keep_alive in seconds, None where it names none.

    Raises `Refused` for what Ollama refuses before it looks for a runner.
    """
    if not 0 <= request.top_logprobs <= _MAX_LOGPROBS:
        raise Refused("top_logprobs must be between 0 and 20")
    try:
        keep_alive_s = durations.keep_alive_s(request.keep_alive)
    except ValueError as error:
        raise Refused(str(error)) from None
    if canonical(request.model) not in map(canonical, options.served):
        raise Refused(f"model '{request.model}' not found", status=404)
    if request.think not in {None, False} and not can_think(request.model):
        raise Refused(f'"{request.model}" does not support thinking')
    return keep_alive_s


def can_think(model: str) -> bool:
    """Whether the model is one that thinks, unless it is told not to."""
    return canonical(model).partition(":")[0].endswith(THINKING_SUFFIX)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the model gets to read, after Ollama's silent truncation."""

    text: str
    tokens: int


def fit(request: Request, num_ctx: int) -> Prompt:
    """The prompt within `num_ctx`: the oldest messages dropped, and if the last alone is too long, its middle cut out.

    Raises `Refused` where the request forbids it.
    """
    turns = list(request.turns)
    tokens = count_prompt_tokens([turn.content for turn in turns])
    if tokens > num_ctx and request.truncate is False:
        raise Refused(_TOO_LONG)
    while tokens > num_ctx and (oldest := _droppable(turns)) is not None:
        del turns[oldest]
        tokens = count_prompt_tokens([turn.content for turn in turns])
    text = next((turn.content for turn in reversed(turns) if turn.role == "user"), "")
    if tokens <= num_ctx:
        return Prompt(text=text, tokens=tokens)
    # What is kept is about half a context from the end, so that there is room to generate.
    kept = max(1, num_ctx // 2)
    return Prompt(text=text[-kept * TOKEN_CHARS :], tokens=kept)


def _droppable(turns: list[Message]) -> int | None:
    return next((index for index, turn in enumerate(turns[:-1]) if turn.role != "system"), None)


def understand(request: Request, prompt: Prompt, num_ctx: int) -> Ask:
    """What is asked for, with `prompt` in a context of `num_ctx`. Raises `Refused` for a format that cannot be followed."""
    asked = (request.options or {}).get("num_predict")
    limit = int(asked) if isinstance(asked, int | float) and asked > 0 else _UNBOUNDED_CONTEXTS * num_ctx
    # Without `shift` the answer ends with the context; with it, which is the default, old tokens make room for new ones.
    room = max(1, num_ctx - prompt.tokens) if request.shift is False else limit
    thinks = can_think(request.model) and request.think is not False
    return Ask(
        text=prompt.text,
        max_tokens=min(limit, room),
        thoughts=_THOUGHTS if thinks else "",
        **_guide(request.format),
    )


def _guide(wanted: Any) -> dict[str, Any]:
    if wanted is None or wanted == "":
        return {}
    if wanted == "json":
        return {"json_only": True}
    if not isinstance(wanted, Mapping):
        raw = json.dumps(json.dumps(wanted))
        raise Refused(f'invalid format: {raw}; expected "json" or a valid JSON Schema object', status=500)
    problem = grammar.find_problem(wanted)
    if problem is not None:
        words = {"error": {"code": 400, "message": f"failed to parse grammar: {problem}", "type": "invalid_request_error"}}
        raise Refused(json.dumps(words))
    return {"schema": wanted}
