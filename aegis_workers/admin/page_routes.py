"""`/`: the page for operators, and the files that it is made of. They hold nothing secret; what it shows needs the token."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Final

from fastapi import APIRouter, Header, Response

from aegis_workers.admin.failures import Refused

router = APIRouter(include_in_schema=False)
Known = Annotated[str | None, Header()]

INDEX: Final = "/"
STATIC: Final = "/static/"
_TYPES: Mapping[str, str] = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Nothing from elsewhere, no script or style in the page itself, no text that becomes markup, and no other site's frame around it.
_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'"
)
_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, and asked for anew: a newer server has newer files
}


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A file of the page. `tag` changes with its content."""

    body: bytes
    type: str
    tag: str


def is_open(path: str) -> bool:
    """Whether this path is of the page's files, which a browser fetches before it has a token."""
    return path == INDEX or path.startswith(STATIC)


@router.get(INDEX)
async def index(if_none_match: Known = None) -> Response:
    """The page."""
    return _answer("index.html", if_none_match)


@router.get(STATIC + "{name}")
async def static(name: str, if_none_match: Known = None) -> Response:
    """A file of the page. Raises `Refused` where there is none of this name."""
    return _answer(name, if_none_match)


def _answer(name: str, known: str | None) -> Response:
    part = _parts().get(name)
    if part is None:
        raise Refused(404, "there is no such file", code="not_found")
    headers = {**_HEADERS, "ETag": part.tag}
    if known == part.tag:
        return Response(status_code=304, headers=headers)
    return Response(part.body, media_type=part.type, headers=headers)


@cache
def _parts() -> Mapping[str, _Part]:
    """Every file of the page by its name: what is asked for never becomes a path."""
    folder = resources.files("aegis_workers.admin") / "page"
    return {one.name: _part(one.name, one.read_bytes()) for one in folder.iterdir() if _suffix(one.name) in _TYPES}


def _part(name: str, body: bytes) -> _Part:
    return _Part(body=body, type=_TYPES[_suffix(name)], tag=f'"{hashlib.sha256(body).hexdigest()[:16]}"')


def _suffix(name: str) -> str:
    return name.rpartition(".")[2]
