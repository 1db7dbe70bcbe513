"""How vLLM says no: its error object, and its words for a body that it cannot read."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError

# More problems than these are only counted.
_SHOWN_PROBLEMS = 10


class Refused(Exception):
    """vLLM answers with an error object."""

    def __init__(self, message: str, *, status: int = 400, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> dict[str, Any]:
        """The error in vLLM's form."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}}


def read_json(body: bytes, content_type: str) -> Any:
    """The value in `body`, read as FastAPI reads it. Raises `Refused`."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise _invalid(["Unsupported Media Type: Only 'application/json' is allowed"])
    if not body:
        raise _invalid([{"type": "missing", "loc": "body", "msg": "Field required", "input": "None"}], param="body")
    try:
        return json.loads(body)
    except ValueError as error:
        problem: dict[str, Any] = {"type": "json_invalid", "loc": "body", "msg": "JSON decode error", "input": _shown({})}
        if isinstance(error, json.JSONDecodeError):
            problem |= {"loc": f"body.{error.pos}", "ctx": {"error": error.msg}}
        raise _invalid([problem], param=problem["loc"]) from None


def unreadable(error: ValidationError, place: str = "body") -> Refused:
    """The refusal of a body, or of a query, whose fields are wrong."""
    problems = [_problem(problem, place) for problem in error.errors(include_url=False)]
    return _invalid(problems, param=problems[0]["loc"])


def _problem(found: Mapping[str, Any], place: str) -> dict[str, Any]:
    problem = {"type": found["type"], "loc": ".".join([place, *map(str, found["loc"])]), "msg": found["msg"]}
    context = {"ctx": found["ctx"]} if "ctx" in found else {}
    return problem | {"input": _shown(found["input"])} | context


def _shown(value: Any) -> str:
    return f"<{type(value).__name__} of {len(value)} items>" if isinstance(value, dict | list) else str(value)


def _invalid(problems: Sequence[Any], param: str | None = None) -> Refused:
    plural = "" if len(problems) == 1 else "s"
    lines = [f"{len(problems)} validation error{plural}:", *(f"  {problem}" for problem in problems[:_SHOWN_PROBLEMS])]
    if len(problems) > _SHOWN_PROBLEMS:
        lines.append(f"  ...and {len(problems) - _SHOWN_PROBLEMS} more errors")
    return Refused("\n".join(lines), kind=HTTPStatus.BAD_REQUEST.phrase, param=param)
