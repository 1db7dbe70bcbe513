"""Go's durations, and Ollama's `keep_alive` made of them."""

import math
import re
from typing import Any

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)")


def keep_alive_s(value: Any) -> float | None:
    """Seconds that a model stays loaded: infinite where negative, None where absent.

    Raises `ValueError` with Ollama's words.
    """
    match value:
        case None:
            return None
        case bool() | list() | dict():
            raise ValueError(f"Unsupported type: '{type(value).__name__}'")
        case str():
            duration_s = parse(value)
        case _:
            duration_s = float(value)
    return math.inf if duration_s < 0 else duration_s


def parse(text: str) -> float:
    """Seconds of a Go duration such as `1h30m`. Raises `ValueError` with Go's words."""
    digits = text.lstrip("+-") if len(text) - len(text.lstrip("+-")) <= 1 else ""
    if digits == "0":
        return 0.0
    parts = _PART.findall(digits)
    if not parts or "".join(number + unit for number, unit in parts) != digits:
        raise ValueError(f'time: invalid duration "{text}"')
    for _, unit in parts:
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _UNITS_S:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
    return math.copysign(sum(float(number) * _UNITS_S[unit] for number, unit in parts), -1 if text[0] == "-" else 1)
