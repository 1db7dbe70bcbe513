"""One call to an engine, as values: what is asked and what came back. The same for every engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the answer is drawn. None leaves the choice to the engine.

    `max_tokens` bounds the answer and is always sent: an unbounded answer can loop until the context is full.
    """

    max_tokens: int = 1024
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """One call, the same for every engine.

    `schema` is a JSON Schema that the answer must follow (structured output), or None for free text.
    The model is no part of it: each client asks for the one that it was configured with.
    """

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    request_id: str | None = None


class Finish(StrEnum):
    """Why a complete answer ended. Any other reason (`abort`, none at all) is an error, not an ending."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A complete answer. Token counts are the engine's own, None where it gave none."""

    text: str
    finish: Finish
    reasoning: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
