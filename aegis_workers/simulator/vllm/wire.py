"""The JSON that vLLM writes."""

import json
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import Any

from aegis_workers.simulator.answer import Answer, Piece

VERSION = "0.32.0"
_FINGERPRINT = f"vllm-{VERSION}-51a1ba70"

DONE = b"data: [DONE]\n\n"
NOTHING = Piece(text="", last=True)


def dumps(value: Any) -> str:
    """Compact JSON, as vLLM's server writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def event(value: Any) -> bytes:
    """`value` as one server-sent event."""
    return b"data: " + dumps(value).encode() + b"\n\n"


def _now() -> int:
    return int(time.time())


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What every part of one answer repeats. `reasoning_field` is the name under which thoughts go."""

    model: str
    prompt_tokens: int
    reasoning_field: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(8)}")
    created: int = field(default_factory=_now)

    def named(self, request_id: str) -> "Reply":
        """The same, under the id that the client chose."""
        return replace(self, id=f"chatcmpl-{request_id}")

    def whole(self, answer: Answer, finish: str | None) -> bytes:
        """The body of a whole answer."""
        message = {
            "role": "assistant",
            "content": answer.text,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            self.reasoning_field: answer.thoughts or None,
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish,
            "stop_reason": None,
            "token_ids": None,
            "routed_experts": None,
        }
        return dumps(
            {
                "id": self.id,
                "object": "chat.completion",
                "created": self.created,
                "model": self.model,
                "choices": [choice],
                "service_tier": None,
                "system_fingerprint": _FINGERPRINT,
                "usage": self._usage(answer) | {"prompt_tokens_details": None, "completion_tokens_details": None},
                "prompt_logprobs": None,
                "prompt_token_ids": None,
                "prompt_text": None,
                "kv_transfer_params": None,
                "ec_transfer_params": None,
                "metrics": None,
            }
        ).encode()

    def first(self) -> bytes:
        """The event that opens a stream."""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return event(self._head() | {"choices": [choice], "prompt_token_ids": None, "prompt_text": None})

    def piece(self, piece: Piece) -> bytes:
        """The event of one piece of text that is not the last."""
        return event(self._head() | {"choices": [self._choice(piece, None)]})

    def end(self, finish: str, piece: Piece = NOTHING, *, closes: bool) -> bytes:
        """The event that says why the answer ended, with its last piece. `closes`: no token counts come after it."""
        choice = self._choice(piece, finish) | {"stop_reason": None}
        fingerprint = {"system_fingerprint": _FINGERPRINT} if closes else {}
        return event(self._head() | {"choices": [choice]} | fingerprint)

    def usage(self, answer: Answer) -> bytes:
        """The event with the token counts, which comes after the end."""
        return event(self._head() | {"choices": [], "usage": self._usage(answer), "system_fingerprint": _FINGERPRINT})

    def _choice(self, piece: Piece, finish: str | None) -> dict[str, Any]:
        delta = {self.reasoning_field if piece.thought else "content": piece.text}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}

    def _usage(self, answer: Answer) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + answer.tokens,
            "completion_tokens": answer.tokens,
        }


def model_list(models: tuple[str, ...], context_tokens: int) -> dict[str, Any]:
    """The body of `GET /v1/models`."""
    return {"object": "list", "data": [_model(name, context_tokens) for name in models]}


def _model(name: str, context_tokens: int) -> dict[str, Any]:
    created = _now()
    permission = {
        "id": f"modelperm-{secrets.token_hex(8)}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": name,
        "parent": None,
        "max_model_len": context_tokens,
        "permission": [permission],
    }
