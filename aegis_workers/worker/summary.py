"""What Celery's events, and so Flower, show of a task's result: how it ended, where it ran and how long it took."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from aegis_workers.dispatch.running import Ran
from aegis_workers.outcome import Status
from aegis_workers.routing import Engine, Mode


def line(result: Mapping[str, Any], ran: Ran, elapsed_s: float) -> str:
    """Such as `ok engine=vllm mode=auto attempts=1 0.84 s`, or `failed 1, ok 31 engine=vllm+ollama mode=auto 12.40 s`."""
    parts = [_ends(result), _named("engine", ran.engines), _named("mode", ran.modes)]
    if "attempts" in result:
        parts.append(f"attempts={result['attempts']}")
    return " ".join([*filter(None, parts), f"{elapsed_s:.2f} s"])


def _ends(result: Mapping[str, Any]) -> str:
    """How it ended, or how many of its parts ended how."""
    if "status" in result:
        return str(result["status"])
    counts = Counter(result.get("chunks") or (part["status"] for part in result.get("results", ())))
    return ", ".join(f"{status} {count}" for status, count in sorted(counts.items()))


def _named(what: str, names: Iterable[str]) -> str:
    shown = "+".join(names)
    return shown and f"{what}={shown}"


def _one_of(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(words)})"


_STATUS, _ENGINE, _MODE = _one_of(Status), _one_of(Engine), _one_of(Mode)
_ENDS = rf"(?:{_STATUS}|{_STATUS} \d+(?:, {_STATUS} \d+)*)"
_LINE = re.compile(
    rf"(?:{_ENDS} )?(?:engine={_ENGINE}(?:\+{_ENGINE})* )?(?:mode={_MODE}(?:\+{_MODE})* )?(?:attempts=\d+ )?\d+\.\d\d s"
)


def is_line(text: object) -> bool:
    """Whether this is what `line` returns: anything else that claims to be a result could be somebody's text."""
    return isinstance(text, str) and _LINE.fullmatch(text) is not None
