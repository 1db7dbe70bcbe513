"""The JSON that Ollama writes."""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from aegis_workers.simulator.answer import Answer, Piece, count_tokens
from aegis_workers.simulator.ollama.runners import Runner

VERSION = "0.33.0"

Route = Literal["chat", "generate"]

_NS = 1_000_000_000
# What Go makes of the longest duration that it can express, 2**63 - 1 ns, counted from now.
_FOREVER_S = (2**63 - 1) / _NS
_SIZE_BYTES = 4_661_224_676


def dumps(value: Any) -> bytes:
    """Compact JSON, as Go's encoder writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def timestamp(ahead_s: float = 0.0) -> str:
    """RFC 3339 in UTC with nanoseconds, `ahead_s` from now."""
    seconds, ns = divmod(time.time_ns(), _NS)
    moment = datetime.fromtimestamp(seconds, UTC) + timedelta(seconds=min(ahead_s, _FOREVER_S))
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


@dataclass(kw_only=True)
class Times:
    """When a request came, had its runner, had its prompt read and was done; seconds of one clock."""

    begun_s: float
    loaded_s: float = 0.0
    read_from_s: float = 0.0
    read_s: float = 0.0
    done_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What every part of one answer repeats."""

    route: Route
    model: str

    def piece(self, piece: Piece) -> bytes:
        """One line of a stream."""
        text, thoughts = ("", piece.text) if piece.thought else (piece.text, "")
        return dumps(self._head(text, thoughts) | {"done": False}) + b"\n"

    def end(self, answer: Answer, prompt_tokens: int, times: Times) -> bytes:
        """The last line of a stream."""
        return dumps(self._head("", "") | self._ending(answer, prompt_tokens, times)) + b"\n"

    def whole(self, answer: Answer, prompt_tokens: int, times: Times) -> bytes:
        """The body of a whole answer."""
        return dumps(self._head(answer.text, answer.thoughts) | self._ending(answer, prompt_tokens, times))

    def unfinished(self, answer: Answer) -> bytes:
        """The body of an answer whose generation ended without an end."""
        return dumps(self._head(answer.text, answer.thoughts) | {"done": False})

    def state(self, reason: Literal["load", "unload"]) -> bytes:
        """The body that tells of a load or an unload."""
        return dumps(self._head("", "") | {"done": True, "done_reason": reason})

    def _head(self, text: str, thoughts: str) -> dict[str, Any]:
        head = {"model": self.model, "created_at": timestamp()}
        thinking = {"thinking": thoughts} if thoughts else {}
        if self.route == "generate":
            return head | {"response": text} | thinking
        return head | {"message": {"role": "assistant", "content": text} | thinking}

    def _ending(self, answer: Answer, prompt_tokens: int, times: Times) -> dict[str, Any]:
        metrics = {
            "total_duration": _ns(times.done_s - times.begun_s),
            "load_duration": _ns(times.loaded_s - times.begun_s),
            "prompt_eval_count": prompt_tokens,
            "prompt_eval_duration": _ns(times.read_s - times.read_from_s),
            "eval_count": answer.tokens,
            "eval_duration": _ns(times.done_s - times.read_s),
        }
        context = {"context": list(range(prompt_tokens + count_tokens(answer.text)))} if self.route == "generate" else {}
        # Go's `omitempty`: a metric of zero is absent.
        return {"done": True, "done_reason": answer.finish} | context | {name: n for name, n in metrics.items() if n}


def _ns(duration_s: float) -> int:
    return round(duration_s * _NS)


def tags(models: Sequence[str]) -> dict[str, Any]:
    """The body of `GET /api/tags`; `models` are full names."""
    return {"models": [_identity(name) | {"modified_at": timestamp(), "details": _details()} for name in models]}


def ps(loaded: Sequence[tuple[Runner, float]]) -> dict[str, Any]:
    """The body of `GET /api/ps`: each runner with the seconds that it will stay."""
    return {
        "models": [
            _identity(runner.wanted.model)
            | {
                "details": _details(),
                "expires_at": timestamp(left_s if math.isfinite(left_s) else _FOREVER_S),
                "size_vram": _SIZE_BYTES,
                "context_length": runner.wanted.num_ctx,
            }
            for runner, left_s in loaded
        ]
    }


def show(name: str, context_tokens: int, *, thinks: bool) -> dict[str, Any]:
    """The body of `POST /api/show`."""
    return {
        "modelfile": f"FROM {name}",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": _details(),
        "model_info": {"general.architecture": "simulator", "simulator.context_length": context_tokens},
        "capabilities": ["completion", *(["thinking"] if thinks else [])],
        "modified_at": timestamp(),
    }


def _identity(name: str) -> dict[str, Any]:
    return {"name": name, "model": name, "size": _SIZE_BYTES, "digest": hashlib.sha256(name.encode()).hexdigest()}


def _details() -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "simulator",
        "families": ["simulator"],
        "parameter_size": "8.0B",
        "quantization_level": "Q4_K_M",
    }
