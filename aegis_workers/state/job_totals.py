"""What work has cost: tokens, attempts, calls and engine time, of one outcome or of many."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_CALLS: Final = "calls:"
_ENGINE_MS: Final = "engine_ms:"
_to_json: Final = json.JSONEncoder(separators=(",", ":")).encode  # `json.dumps` makes one for every text


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Tokens by the engines' own count; `attempts` of all calls; `calls` and `engine_ms` (ms of engine time) by engine."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 0
    calls: Mapping[str, int] = field(default_factory=dict)
    engine_ms: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            attempts=self.attempts + other.attempts,
            calls=dict(Counter(self.calls) + Counter(other.calls)),
            engine_ms=dict(Counter(self.engine_ms) + Counter(other.engine_ms)),
        )

    def fields(self) -> dict[str, int]:
        """The totals as counts of a job's hash; those that are 0 are missing."""
        found = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "attempts": self.attempts,
            **{f"{_CALLS}{engine}": count for engine, count in self.calls.items()},
            **{f"{_ENGINE_MS}{engine}": ms for engine, ms in self.engine_ms.items()},
        }
        return {name: count for name, count in found.items() if count}


def total(many: Iterable[Totals]) -> Totals:
    """The sum of many, in one go."""
    sums, calls, engine_ms = [0, 0, 0], Counter[str](), Counter[str]()
    for one in many:
        sums[0] += one.prompt_tokens
        sums[1] += one.completion_tokens
        sums[2] += one.attempts
        for engine, count in one.calls.items():
            calls[engine] += count
        for engine, ms in one.engine_ms.items():
            engine_ms[engine] += ms
    return Totals(
        prompt_tokens=sums[0], completion_tokens=sums[1], attempts=sums[2], calls=dict(calls), engine_ms=dict(engine_ms)
    )


def from_fields(fields: Mapping[str, Any]) -> Totals:
    """The totals in a job's hash, or in what `Totals.fields` made."""
    return Totals(
        prompt_tokens=int(fields.get("prompt_tokens", 0)),
        completion_tokens=int(fields.get("completion_tokens", 0)),
        attempts=int(fields.get("attempts", 0)),
        calls=_by_name(fields, _CALLS),
        engine_ms=_by_name(fields, _ENGINE_MS),
    )


def _by_name(fields: Mapping[str, Any], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): int(count) for name, count in fields.items() if name.startswith(prefix)}


def encode(totals: Totals) -> str:
    """The totals as text, on their way with an outcome: short, because every outcome has one."""
    return _to_json([totals.prompt_tokens, totals.completion_tokens, totals.attempts, totals.calls, totals.engine_ms])


def decode(text: str | bytes) -> Totals:
    """The totals that `encode` was given."""
    prompt_tokens, completion_tokens, attempts, calls, engine_ms = json.loads(text)
    return Totals(
        prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, attempts=attempts, calls=calls, engine_ms=engine_ms
    )
