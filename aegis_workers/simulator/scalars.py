"""Single values that follow a JSON Schema: the leaves of what `filling` builds."""

import math
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final


class _Unknown(Enum):
    VALUE = 0


# Nothing is known, which is not the same as knowing null.
UNKNOWN: Final = _Unknown.VALUE

# What a text is where an object is known: its first field of these.
_TEXT_FIELDS = ("name", "text", "relation")
# Chosen from an enumeration that does not hold what is known.
_OTHER = frozenset({"other", "misc", "miscellaneous", "unknown", "none"})
# How far a number keeps from an exclusive bound.
_APART = 1e-3

_FORMATS = {
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "date-time": "2000-01-01T00:00:00Z",
    "email": "nobody@example.com",
    "uri": "http://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "127.0.0.1",
    "hostname": "example.com",
}
_PATTERN_SAMPLES = (
    "",
    *_FORMATS.values(),
    *(unit * length for length in range(1, 41) for unit in ("a", "A", "0", "x1")),
    *("a-1", "A-1", "A1", "a1", "1.0", "2000", "12:00", "yes", "0.0.0", "#000000", "+10000000"),
)


def fill(kind: str | None, schema: Mapping[str, Any], known: Any) -> Any:
    """A value of the JSON type `kind`, within the schema's bounds; `known` as it is where there is no such type."""
    match kind:
        case "string":
            return _text(schema, known)
        case "number" | "integer":
            return _number(schema, known, whole=kind == "integer")
        case "boolean":
            return known is True
        case _:
            return None if known is UNKNOWN or kind == "null" else known


def choose(allowed: list[Any], known: Any) -> Any:
    """`known` where it is allowed, in any spelling of its capitals; else the value for others; else the first."""
    if known in allowed:
        return known
    by_folded = {value.casefold(): value for value in reversed(allowed) if isinstance(value, str)}
    other = next((value for folded, value in by_folded.items() if folded in _OTHER), allowed[0])
    return by_folded.get(as_text(known).casefold(), other)


def fill_pattern(pattern: str, wanted: str = "", *, least: int = 0, most: float = math.inf) -> str:
    """`wanted` where it matches the regular expression and has `least` to `most` characters, else a text that does.

    Where none of the samples does either, `wanted` for want of a better one.
    """
    try:
        matcher = re.compile(pattern)
    except re.error:
        return wanted
    samples = (sample for sample in (wanted, *_PATTERN_SAMPLES) if least <= len(sample) <= most)
    return next((sample for sample in samples if matcher.search(sample)), wanted)


def as_text(known: Any) -> str:
    """What is known, as one text; empty where nothing is."""
    if isinstance(known, Mapping):
        known = next((known[name] for name in _TEXT_FIELDS if name in known), UNKNOWN)
    return "" if known is UNKNOWN or known is None else str(known)


def _text(schema: Mapping[str, Any], known: Any) -> str:
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    text = as_text(known)
    least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
    if "pattern" in schema:
        return fill_pattern(schema["pattern"], text, least=least, most=most)
    text = text.ljust(least, "x")
    return text if len(text) <= most else text[: int(most)]


def _number(schema: Mapping[str, Any], known: Any, *, whole: bool) -> int | float:
    apart = 1 if whole else _APART
    least = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf) + apart)
    most = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf) - apart)
    given = known if isinstance(known, int | float) and not isinstance(known, bool) else 0
    value: int | float = min(max(given, least), most)
    step = schema.get("multipleOf", 1 if whole else None)
    if step is None:
        return value
    value = math.floor(value / step) * step
    value = value if value >= least else value + step
    return int(value) if whole else value
