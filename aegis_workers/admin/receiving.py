"""Takes an upload in: from the request to the disk in pieces, however large it is."""

import re
from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from aegis_workers.admin.failures import Refused
from aegis_workers.admin.form import FILE, Form
from aegis_workers.admin.uploads import NewUpload, Upload, Uploads

PURPOSE = "batch"
# What is written at once: the way into a thread and back is short beside it.
_PIECE_BYTES = 1_000_000
# The rest of a form beside its file.
_FORM_BYTES = 100_000
# OpenAI's bounds, and the one moment from which it counts.
_EXPIRES_S = (3_600, 2_592_000)
_ANCHOR = "created_at"
_MAX_NAME_CHARS = 512


async def receive(request: Request, uploads: Uploads, max_bytes: int, default_expires_s: float | None) -> Upload:
    """The file that the request brings, kept; nothing of it is left behind where this raises.

    `default_expires_s` is how long it is kept where the form does not say; None is for ever. Raises `Refused` for a form that is
    wrong or a file that is larger than `max_bytes`, `SpoolFull` and `SpoolUnavailable`, and `ClientDisconnect` where the client
    goes away.
    """
    form = Form(request.headers.get("content-type", ""))
    _check_announced(request, max_bytes)
    block = uploads.new()
    new = await run_in_threadpool(block.__enter__)
    try:
        await _receive(request, form, new, max_bytes)
        expires_s = _expires_s(form.fields, default_expires_s)
        return await run_in_threadpool(uploads.keep, new, (form.filename or FILE)[-_MAX_NAME_CHARS:], expires_s)
    finally:
        await run_in_threadpool(block.__exit__, None, None, None)


async def _receive(request: Request, form: Form, new: NewUpload, max_bytes: int) -> None:
    async for data in request.stream():
        form.feed(data)
        _check_purpose(form, at_the_end=False)
        if new.size_bytes + form.pending_bytes > max_bytes:
            raise _too_large(max_bytes)
        if form.pending_bytes >= _PIECE_BYTES:
            await run_in_threadpool(new.write, form.take())
    if not form.is_complete or form.filename is None:
        raise Refused(400, f"the form is not complete: it needs a file called {FILE}", param=FILE, code="invalid_request")
    _check_purpose(form, at_the_end=True)
    await run_in_threadpool(new.write, form.take())


def _check_announced(request: Request, max_bytes: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes + _FORM_BYTES:
        raise _too_large(max_bytes)


def _check_purpose(form: Form, *, at_the_end: bool) -> None:
    if form.fields.get("purpose", None if at_the_end else PURPOSE) != PURPOSE:
        raise Refused(400, f"purpose must be {PURPOSE}: files are for nothing else here", param="purpose", code="invalid_request")


def _expires_s(fields: Mapping[str, str], default_s: float | None) -> float | None:
    if fields.get("expires_after[anchor]", _ANCHOR) != _ANCHOR:
        raise Refused(400, f"expires_after.anchor must be {_ANCHOR}", param="expires_after", code="invalid_request")
    words = fields.get("expires_after[seconds]")
    if words is None:
        return default_s
    shortest, longest = _EXPIRES_S
    if re.fullmatch(r"\d{1,9}", words) is None or not shortest <= int(words) <= longest:
        raise Refused(
            400, f"expires_after.seconds must be from {shortest} to {longest}", param="expires_after", code="invalid_request"
        )
    return float(words)


def _too_large(max_bytes: int) -> Refused:
    return Refused(
        413, f"the file has more than {max_bytes:,} bytes: split it, or raise AEGIS_MAX_FILE_BYTES", param=FILE, code="too_large"
    )
