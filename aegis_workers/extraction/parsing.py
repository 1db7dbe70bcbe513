"""From an engine's answer to checked data, or to the reason why it is none."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aegis_workers.extraction import dialect
from aegis_workers.extraction.schema import Schema

# Deeper answers come from an engine that loops; everything after this walks data by recursion.
MAX_ANSWER_DEPTH = 100

# Some chat templates write the opening mark themselves, so that the answer holds only the closing one.
_REASONING = re.compile(r"(?!\s*[{\[`]).*?</think>", re.DOTALL)
_FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)\n?\s*```", re.DOTALL)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """An answer that follows the schema."""

    data: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An answer that cannot be used, with the reason in words that hold nothing of it."""

    problem: str


def parse(text: str, schema: Schema) -> Parsed | Unreadable:
    """The data of `text`, checked against `schema`.

    Forgives what engines do to right answers: reasoning before it, a code fence around it, raw control characters inside strings
    (vLLM's default grammar lets them through), halves of surrogate pairs (they become U+FFFD). Everything else that is not
    strictly JSON is unreadable, and so is an object that says one key twice.
    """
    answer = _bare(text)
    if not answer:
        return Unreadable(problem="the answer is empty")
    try:
        data = _whole_characters(_load(answer), answer)
    except json.JSONDecodeError as error:
        return Unreadable(problem=f"the answer is not JSON: {error.msg} at character {error.pos} of {len(answer)}")
    except RecursionError:
        return Unreadable(problem=f"the answer is nested more than {MAX_ANSWER_DEPTH} levels deep")
    except ValueError as error:
        return Unreadable(problem=f"the answer is not JSON: {error}")
    return _checked(data, schema)


def _checked(data: Any, schema: Schema) -> Parsed | Unreadable:
    if not isinstance(data, dict):
        return Unreadable(problem="the answer is JSON but no object")
    if dialect.depth(data) > MAX_ANSWER_DEPTH:
        return Unreadable(problem=f"the answer is nested more than {MAX_ANSWER_DEPTH} levels deep")
    broken = schema.explain(data)
    return Unreadable(problem=f"the answer {broken}") if broken else Parsed(data=data)


def _bare(text: str) -> str:
    answer = text.strip().removeprefix("\ufeff")
    reasoning = _REASONING.match(answer)
    answer = answer[reasoning.end() :].strip() if reasoning else answer
    fence = _FENCE.fullmatch(answer)
    return fence[1].strip() if fence else answer


def _load(answer: str) -> Any:
    return json.loads(
        answer, strict=False, object_pairs_hook=_unique, parse_float=_finite, parse_int=_integer, parse_constant=_refused
    )


def _whole_characters(data: Any, answer: str) -> Any:
    """`data` without halves of surrogate pairs, which no encoder can write later."""
    if not _SURROGATE_ESCAPE.search(answer) and _is_encodable(answer):
        return data
    written = json.dumps(data, ensure_ascii=False)
    return _load(written.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("an object says one key twice")
    return members


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        # Python's own message quotes the number's length limit, which helps nobody here.
        raise ValueError("a number is too large") from None


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")
