"""What a simulator answers: text, cut at its limit, with token counts that agree with each other."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aegis_workers.simulator import filling, reading, scalars
from aegis_workers.simulator.behaviour import Behaviour

# A token is four characters: near the average of English text, and easy to reckon with in a test.
TOKEN_CHARS = 4
# What a chat template adds around each message.
_MESSAGE_TOKENS = 4

_DOCUMENT = re.compile(r"<text>\n?(.*?)\n?</text>", re.DOTALL)
_FIRST_STRING = re.compile(r': ?"')
_ECHO_CHARS = 400


def count_tokens(text: str) -> int:
    """Tokens of `text`."""
    return -(-len(text) // TOKEN_CHARS)


def count_prompt_tokens(contents: Sequence[str]) -> int:
    """Tokens of a prompt made of messages with these contents."""
    return sum(count_tokens(content) + _MESSAGE_TOKENS for content in contents)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What an answer is made from.

    `text`: the last user message. At most one of: `schema`, a JSON Schema; `choices`, texts to choose from; `pattern`, a regular
    expression; `json_only`, any JSON object. `max_tokens` bounds the answer. `thoughts`: what is thought before it.
    """

    text: str
    max_tokens: int
    schema: Mapping[str, Any] | None = None
    choices: Sequence[str] = ()
    pattern: str | None = None
    json_only: bool = False
    thoughts: str = ""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One token's text."""

    text: str
    thought: bool = False
    last: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer, and why it ends: `stop`, `length`, or what a fault says."""

    text: str
    finish: str
    thoughts: str = ""

    @property
    def tokens(self) -> int:
        """Tokens of thoughts and text."""
        return count_tokens(self.thoughts) + count_tokens(self.text)

    def cut(self, tokens: int, finish: str) -> "Answer":
        """The answer's first `tokens`, which end for the reason `finish`."""
        left = max(0, tokens - count_tokens(self.thoughts))
        thoughts, text = self.thoughts[: tokens * TOKEN_CHARS], self.text[: left * TOKEN_CHARS]
        return replace(self, thoughts=thoughts, text=text, finish=finish)

    def pieces(self) -> Iterator[Piece]:
        """The answer token by token, thoughts first; `tokens` of them."""
        for start in range(0, len(self.thoughts), TOKEN_CHARS):
            last = not self.text and start + TOKEN_CHARS >= len(self.thoughts)
            yield Piece(text=self.thoughts[start : start + TOKEN_CHARS], thought=True, last=last)
        for start in range(0, len(self.text), TOKEN_CHARS):
            last = start + TOKEN_CHARS >= len(self.text)
            yield Piece(text=self.text[start : start + TOKEN_CHARS], last=last)


def compose(ask: Ask, fault: Behaviour) -> Answer:
    """The answer to `ask`, as `fault` spoils it."""
    thoughts = ask.thoughts if fault.reasoning is None else fault.reasoning
    answer = Answer(text=_spoil(ask, fault), finish="stop", thoughts=thoughts)
    if fault.malformed_json:
        answer = replace(answer, text=answer.text[: len(answer.text) // 2])
    if fault.finish is not None:
        return answer.cut(answer.tokens // 2, fault.finish)
    return answer.cut(ask.max_tokens, "length") if answer.tokens > ask.max_tokens else answer


def _spoil(ask: Ask, fault: Behaviour) -> str:
    if fault.whitespace:
        return "{" + "\n \t " * (ask.max_tokens + 1)
    text = _say(ask) if fault.answer is None else fault.answer
    if fault.control_characters:
        return _FIRST_STRING.sub(lambda found: found.group() + "\x10\t", text, count=1)
    return text


def _say(ask: Ask) -> str:
    if ask.choices:
        return next((choice for choice in ask.choices if choice in ask.text), ask.choices[0])
    if ask.pattern is not None:
        return scalars.fill_pattern(ask.pattern)
    if ask.schema is not None:
        return json.dumps(filling.fill(ask.schema, reading.read(document(ask.text))), ensure_ascii=False)
    if ask.json_only:
        return json.dumps(reading.read(document(ask.text)), ensure_ascii=False)
    return _echo(ask.text)


def document(message: str) -> str:
    """The text that a message is about: what stands between `<text>` and `</text>`, else all of it."""
    found = _DOCUMENT.search(message)
    return found.group(1) if found else message


def _echo(text: str) -> str:
    said = f"You said: {text[:_ECHO_CHARS]}" if text.strip() else "You said nothing."
    return f"{said}\nThis is a simulator, not a language model. It repeats what it was told."
