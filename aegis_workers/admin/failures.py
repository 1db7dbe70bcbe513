"""What a refused request is told: OpenAI's form of an error, for every error that there is."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match, Route

from aegis_workers.errors import AegisError, InvalidInput, NotPossible, RedisUnavailable, SpoolFull, SpoolUnavailable, UnknownJob

log = structlog.get_logger(__name__)

# OpenAI's words for whose fault it is.
_CALLERS = "invalid_request_error"
_SERVERS = "server_error"
_FIRST_OF_SERVER = 500
_NOT_ALLOWED = 405

# What our own errors are answered with: the status and the code of the first kind that fits.
_ANSWERS: Mapping[type[AegisError], tuple[int, str]] = {
    InvalidInput: (400, "invalid_input"),
    NotPossible: (400, "not_possible"),  # not 409, which OpenAI's clients take for a reason to try again
    RedisUnavailable: (503, "redis_unavailable"),
    SpoolFull: (507, "data_folder_full"),
    SpoolUnavailable: (503, "data_folder_unavailable"),
}


class Problem(BaseModel):
    """What is wrong. `param` is the part of the request at fault, `code` a word for programs; either may be null."""

    message: str
    type: str = Field(examples=[_CALLERS])
    param: str | None = None
    code: str | None = None


class Failure(BaseModel):
    """The body of every answer that is no success."""

    error: Problem


# What any route may answer beside its success; for the description of the API.
RESPONSES: Mapping[int | str, dict[str, Any]] = {
    400: {"model": Failure, "description": "The request cannot be served as it is."},
    401: {"model": Failure, "description": "The bearer token is missing or wrong."},
    403: {"model": Failure, "description": "Without a token, only programs of this host may ask, by a name of loopback."},
    500: {"model": Failure, "description": "A fault of the server."},
    503: {"model": Failure, "description": "Redis or the data folder cannot be used now; the message says why."},
}
# What begins with this is ours alone: a malformed request is answered as HTTP has it, not as OpenAI has it.
OUR_PREFIX = "/api/"
MALFORMED: Mapping[int | str, dict[str, Any]] = {
    422: {"model": Failure, "description": "A value is none of those that are allowed; the message names them."}
}
UNKNOWN: Mapping[int | str, dict[str, Any]] = {404: {"model": Failure, "description": "There is nothing of this id."}}
TOO_LARGE: Mapping[int | str, dict[str, Any]] = {413: {"model": Failure, "description": "The request is too large."}}
FULL: Mapping[int | str, dict[str, Any]] = {507: {"model": Failure, "description": "The data folder has no room."}}


class Refused(AegisError):
    """A request that cannot be served; answered with `status`. `param` and `code` as in `Problem`."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


class UnknownFile(Refused):
    """There is no file of this id."""

    def __init__(self, message: str) -> None:
        super().__init__(404, message, param="file_id", code="not_found")


def answer(
    status: int, message: str, *, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as a response."""
    kind = _CALLERS if status < _FIRST_OF_SERVER else _SERVERS
    failure = Failure(error=Problem(message=message, type=kind, param=param, code=code))
    return JSONResponse(failure.model_dump(), status, dict(headers or {}))


def handle(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Makes `app`, which has the routes of `routers`, answer every error in this form."""
    app.add_exception_handler(AegisError, _ours)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, partial(_http, [route for router in routers for route in router.routes]))
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _unforeseen)


async def _ours(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, Refused):
        return answer(error.status, str(error), param=error.param, code=error.code)
    if isinstance(error, UnknownJob):  # its own words are for whoever has the data folder
        return answer(404, "there is no batch of this id: it never was, or it was deleted", param="batch_id", code="not_found")
    for kind, (status, code) in _ANSWERS.items():
        if isinstance(error, kind):
            # OpenAI's clients try again by themselves, and a full disk does not empty itself.
            headers = {"x-should-retry": "false"} if kind is SpoolFull else None
            return answer(status, str(error), code=code, headers=headers)
    log.error("request.failed", error=type(error).__name__)
    return answer(_FIRST_OF_SERVER, str(error))


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    """FastAPI answers 422; OpenAI answers 400, and where it has a say so do we."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for nothing else
    problems: Sequence[Mapping[str, Any]] = error.errors()
    told = [f"{_place(problem)}: {str(problem['msg']).removeprefix('Value error, ')}" for problem in problems]
    status = 422 if request.url.path.startswith(OUR_PREFIX) else 400
    return answer(status, "; ".join(told), param=_place(problems[0]) if problems else None, code="invalid_request")


def _place(problem: Mapping[str, Any]) -> str:
    """The part of the request, without the word for where it stood."""
    if problem.get("type") == "json_invalid":
        return "body"
    return ".".join(str(part) for part in problem["loc"][1:]) or "body"


async def _http(routes: Sequence[BaseRoute], request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for nothing else
    headers = {"Allow": ", ".join(_methods(routes, request))} if error.status_code == _NOT_ALLOWED else error.headers
    return answer(error.status_code, error.detail, headers=headers)


def _methods(routes: Iterable[BaseRoute], request: Request) -> Sequence[str]:
    """All that this path knows; Starlette names those of the first route of several."""
    fitting = (route for route in routes if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE)
    return sorted({method for route in fitting for method in route.methods or ()})


async def _left(_: Request, __: Exception) -> JSONResponse:
    return answer(400, "the request broke off before it was complete")


async def _unforeseen(_: Request, error: Exception) -> JSONResponse:
    return answer(500, f"the server failed ({type(error).__name__}): its log says where")
