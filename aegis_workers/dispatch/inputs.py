"""What callers send, checked once: the same rules for the producer, before it enqueues, and for the worker, who trusts nobody."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aegis_workers.completion import Message, Sampling
from aegis_workers.errors import InvalidInput
from aegis_workers.extraction import inputs as texts
from aegis_workers.extraction import schema as schemas
from aegis_workers.extraction.schema import Schema
from aegis_workers.settings import Settings

# The form of the messages that this version writes; it reads every form up to this one. Whatever an older worker would refuse or
# misread, a new argument or option of a task included, is a new form: old workers then leave it to new ones.
VERSION = 1
MAX_BATCH_ITEMS = 32

MAX_ANSWER_TOKENS = 131_072
# What JSON carries exactly; both engines take a seed of 64 bits.
_MAX_SEED = 2**53 - 1
_MAX_INSTRUCTIONS_CHARS = 20_000
# A message is kept for as long as its worker lives, however long that takes; this only catches a slip of the pen.
MAX_DEADLINE_S = 7 * 86_400

M = TypeVar("M", bound=BaseModel)


class Options(BaseModel):
    """How to draw the answer, and how long the task may take in all (`deadline_s`, waiting included)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_tokens: int | None = Field(None, ge=1, le=MAX_ANSWER_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-_MAX_SEED, le=_MAX_SEED)
    deadline_s: float | None = Field(None, gt=0, le=MAX_DEADLINE_S)


class ExtractionOptions(Options):
    """Likewise, and how the text is cut and what the engine is told beside the schema."""

    chunk_tokens: int | None = Field(None, ge=50)
    chunk_overlap_tokens: int | None = Field(None, ge=0)
    instructions: str | None = Field(None, max_length=_MAX_INSTRUCTIONS_CHARS)


class ChatMessage(BaseModel):
    """One turn, as callers write it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


class Prompt(BaseModel):
    """What a generation continues."""

    prompt: str = Field(min_length=1)


class BatchItem(BaseModel):
    """One text of a micro-batch. `metadata` comes back as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    custom_id: str = Field(min_length=1)
    text: Any
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ExtractionPlan:
    """How texts are to be read: the same for every item of a batch. `chunk_tokens` and its like are tokens."""

    schema: Schema
    sampling: Sampling
    instructions: str | None
    chunk_tokens: int
    chunk_overlap_tokens: int
    deadline_s: float


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A chat or a generation, ready to be asked."""

    messages: tuple[Message, ...]
    sampling: Sampling
    deadline_s: float


def is_newer(version: Any) -> bool:
    """Whether a later version of this package writes messages of this form."""
    return isinstance(version, int) and not isinstance(version, bool) and version > VERSION


def check_version(version: Any) -> None:
    """Raises `InvalidInput` for a message form that this version does not know."""
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= VERSION:
        shown = version if isinstance(version, int) else f"({type(version).__name__})"
        raise InvalidInput(f"message version {shown} is not known here: this worker reads versions 1 to {VERSION}; update it")


def extraction_plan(schema: Any, options: Any, settings: Settings) -> ExtractionPlan:
    """How to read texts, from what a caller sent. Raises `InvalidInput`."""
    chosen = parse(ExtractionOptions, {} if options is None else options, "options")
    chunk_tokens = chosen.chunk_tokens or settings.chunk_tokens
    overlap = settings.chunk_overlap_tokens if chosen.chunk_overlap_tokens is None else chosen.chunk_overlap_tokens
    if overlap * 2 > chunk_tokens and chosen.chunk_overlap_tokens is not None:
        raise InvalidInput(f"options.chunk_overlap_tokens={overlap} is more than half of chunk_tokens={chunk_tokens}")
    return ExtractionPlan(
        schema=schemas.compile(schema),
        sampling=sampling(chosen, settings, temperature=0.0),
        instructions=chosen.instructions,
        chunk_tokens=chunk_tokens,
        chunk_overlap_tokens=min(overlap, chunk_tokens // 2),
        deadline_s=chosen.deadline_s or settings.extraction_deadline_s,
    )


def text(value: Any, settings: Settings) -> str:
    """A text that can be extracted from. Raises `InvalidInput`."""
    return texts.check_text(value, max_bytes=settings.max_text_bytes)


def batch(items: Any) -> tuple[BatchItem, ...]:
    """The items of a micro-batch. Raises `InvalidInput`; the texts themselves are checked one by one, later."""
    if not isinstance(items, Sequence) or isinstance(items, str) or not items:
        raise InvalidInput('items must be a list of {"custom_id", "text"} with at least one item')
    if len(items) > MAX_BATCH_ITEMS:
        raise InvalidInput(f"a batch of {len(items)} items is too large: send up to {MAX_BATCH_ITEMS} in one message")
    parsed = tuple(parse(BatchItem, item, f"items[{index}]") for index, item in enumerate(items))
    ids = [item.custom_id for item in parsed]
    if len(set(ids)) < len(ids):
        raise InvalidInput("items: custom_id must be unique within a batch")
    return parsed


def conversation(messages: Any, options: Any, settings: Settings, *, enqueued_at: float | None = None) -> Conversation:
    """A chat, from what a caller sent. Raises `InvalidInput`."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise InvalidInput('messages must be a list with at least one {"role": "user", "content": …}')
    turns = tuple(parse(ChatMessage, message, f"messages[{index}]") for index, message in enumerate(messages))
    check_size((turn.content for turn in turns), settings)
    chosen = parse(Options, {} if options is None else options, "options")
    return Conversation(
        messages=tuple(Message(role=turn.role, content=turn.content) for turn in turns),
        sampling=sampling(chosen, settings),
        deadline_s=remaining_s(chosen.deadline_s or settings.chat_deadline_s, enqueued_at),
    )


def check_size(contents: Iterable[str], settings: Settings) -> None:
    """Holds a conversation to the bound of a document: it travels through Redis in one message too."""
    size_bytes, max_bytes = sum(len(content.encode()) for content in contents), settings.max_text_bytes
    if size_bytes > max_bytes:
        raise InvalidInput(
            f"the conversation has {size_bytes:,} bytes, more than the {max_bytes:,} of AEGIS_MAX_TEXT_BYTES: "
            "leave old turns out, or raise the limit"
        )


def generation(prompt: Any, options: Any, settings: Settings, *, enqueued_at: float | None = None) -> Conversation:
    """A generation, from what a caller sent: a conversation of one turn. Raises `InvalidInput`."""
    turn = parse(Prompt, {"prompt": prompt}, "")
    return conversation([{"role": "user", "content": turn.prompt}], options, settings, enqueued_at=enqueued_at)


def remaining_s(deadline_s: float, enqueued_at: float | None) -> float:
    """Seconds left of a deadline that began when the message was enqueued (epoch seconds), or now where that is not known."""
    waited_s = 0.0 if enqueued_at is None else time.time() - enqueued_at
    return deadline_s - max(0.0, waited_s)


def sampling(chosen: Options, settings: Settings, *, temperature: float | None = None) -> Sampling:
    """How an answer is drawn; `temperature` is that of a caller who chose none."""
    return Sampling(
        max_tokens=chosen.max_tokens or settings.answer_tokens,
        temperature=temperature if chosen.temperature is None else chosen.temperature,
        top_p=chosen.top_p,
        seed=chosen.seed,
    )


def parse(model: type[M], value: Any, where: str) -> M:
    """What a caller sent as `where`. Raises `InvalidInput`, which names each problem and its place, and no value."""
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{where} must be an object, not {type(value).__name__}")
    try:
        return model.model_validate(dict(value))
    except ValidationError as error:
        raise InvalidInput(_explain(error, where, allowed=tuple(model.model_fields))) from None


def _explain(error: ValidationError, where: str, allowed: tuple[str, ...] = ()) -> str:
    """Each problem with its place; never a value, because values are the caller's."""
    lines = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        place = where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        lines.append(f"{place.lstrip('.')}: {_rule(problem['type'], problem['msg'], allowed)}")
    return "; ".join(lines)


def _rule(kind: str, message: str, allowed: tuple[str, ...]) -> str:
    match kind:
        case "extra_forbidden":
            return f"not known; allowed: {', '.join(allowed)}"
        case "string_unicode":
            return "holds a lone surrogate: decode the bytes as UTF-8 first"
        case _:
            return message
