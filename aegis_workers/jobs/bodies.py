"""The bodies of OpenAI's chat completions, as far as both engines can follow them; the rest is refused by its name."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from aegis_workers.dispatch.inputs import Options
from aegis_workers.errors import InvalidInput
from aegis_workers.extraction import schema as schemas

# A key of more or of other characters may be a text that went astray.
_NAME = re.compile(r"[A-Za-z_][\w.$-]{0,63}", re.ASCII)


def _joined(content: Any) -> Any:
    """The text of a list of text parts, a line for each."""
    if not isinstance(content, list):
        return content
    if not all(isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text" for part in content):
        raise ValueError('parts other than {"type": "text", "text": …} are not supported')
    texts = [part["text"] for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("the text of a part must be a string")
    return "\n".join(texts)


def _without_developer(role: Any) -> Any:
    return "system" if role == "developer" else role  # OpenAI's new word for it, which no engine here knows


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Turn(_Strict):
    role: Annotated[Literal["system", "user", "assistant"], BeforeValidator(_without_developer)]
    content: Annotated[str, BeforeValidator(_joined)] = Field(min_length=1)


class _NamedSchema(_Strict):
    name: str = Field("answer", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    source: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class _ResponseFormat(_Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _NamedSchema | None = None


class _Body(Options):
    model: str | None = None
    messages: list[_Turn] = Field(min_length=1)
    response_format: _ResponseFormat | None = None
    stream: Literal[False] | None = None
    n: Literal[1] | None = None
    user: str | None = None


# OpenAI's two names of one bound.
_MAX_TOKENS = "max_tokens"
_MAX_COMPLETION_TOKENS = "max_completion_tokens"
_NOT_OPENAI = "deadline_s"
_ALLOWED = tuple(sorted({*_Body.model_fields, _MAX_COMPLETION_TOKENS} - {_NOT_OPENAI}))


def normalised(body: Any, *, max_bytes: int) -> dict[str, Any]:
    """The body of a request as the job's folder has it, itself a body that OpenAI's API would take.

    `messages` with a role of `system`, `user` or `assistant` and one string of content each; `max_tokens`, `temperature`,
    `top_p`, `seed`, `response_format` and `model` where they were given. The model is only noted: the engine's own answers. All
    contents together have at most `max_bytes`. Raises `InvalidInput`, which names the place and holds no value.
    """
    if not isinstance(body, Mapping):
        raise InvalidInput(f"body must be an object, not {type(body).__name__}")
    given = {name: value for name, value in body.items() if value is not None}
    if given.get("stream"):
        raise InvalidInput("body.stream: answers of a job cannot be streamed: leave it out")
    if _MAX_COMPLETION_TOKENS in given:
        given[_MAX_TOKENS] = given.pop(_MAX_COMPLETION_TOKENS)
    if _NOT_OPENAI in given:
        raise InvalidInput(f"body.{_NOT_OPENAI}: not supported; the job's own expiry holds")
    try:
        parsed = _Body.model_validate(given)
    except ValidationError as error:
        raise InvalidInput(_explain(error)) from None
    _check_size(parsed, max_bytes)
    _check_format(parsed.response_format)
    return _plain(parsed)


def key_name(key: Any) -> str:
    """The key of an object where it looks like a name; else a word that stands for it."""
    return key if isinstance(key, str) and _NAME.fullmatch(key) else "(a key that is no name)"


def _plain(parsed: _Body) -> dict[str, Any]:
    sampling = {name: getattr(parsed, name) for name in (_MAX_TOKENS, "temperature", "top_p", "seed")}
    wanted = parsed.response_format
    return {
        **({} if parsed.model is None else {"model": parsed.model}),
        "messages": [{"role": turn.role, "content": turn.content} for turn in parsed.messages],
        **{name: value for name, value in sampling.items() if value is not None},
        **({} if wanted is None else {"response_format": wanted.model_dump(by_alias=True, exclude_none=True)}),
    }


def _check_size(parsed: _Body, max_bytes: int) -> None:
    size_bytes = sum(len(turn.content.encode()) for turn in parsed.messages)
    if size_bytes > max_bytes:
        raise InvalidInput(
            f"body.messages: {size_bytes:,} bytes of content, more than the {max_bytes:,} of AEGIS_MAX_TEXT_BYTES: "
            "split the request, or raise the limit"
        )


def _check_format(wanted: _ResponseFormat | None) -> None:
    if wanted is None or (wanted.type != "json_schema" and wanted.json_schema is None):
        return
    if wanted.json_schema is None or wanted.type != "json_schema":
        raise InvalidInput('body.response_format: json_schema belongs to the type "json_schema", and to no other')
    try:
        schemas.compile(wanted.json_schema.source)
    except InvalidInput as error:
        raise InvalidInput(f"body.response_format.json_schema: {error}") from None


def _explain(error: ValidationError) -> str:
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(
        f"{_place(problem['loc'])}: {_rule(problem['type'], problem['msg'], problem['loc'])}" for problem in problems
    )


def _place(location: tuple[int | str, ...]) -> str:
    return "body" + "".join(f"[{part}]" if isinstance(part, int) else f".{key_name(part)}" for part in location)


def _rule(kind: str, message: str, location: tuple[int | str, ...]) -> str:
    match kind:
        case "extra_forbidden":
            return "not supported" if len(location) > 1 else f"not supported; supported: {', '.join(_ALLOWED)}"
        case "string_unicode":
            return "holds a lone surrogate: decode the bytes as UTF-8 first"
        case _:
            return message.removeprefix("Value error, ")
