"""`/v1/batches`: bulk jobs, made of uploaded files."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from aegis_workers.admin import failures, links
from aegis_workers.admin.batch import ENDPOINTS, Batch, Endpoint
from aegis_workers.admin.failures import Refused
from aegis_workers.admin.place import Here, Place
from aegis_workers.admin.streaming import begun, pieces
from aegis_workers.jobs.desk import Desk
from aegis_workers.jobs.manifest import EnginePolicy, Origin
from aegis_workers.jobs.sources import JsonLines
from aegis_workers.jobs.submission import MAX_KEY_CHARS, Terms

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/batches", tags=["batches"], responses={**failures.RESPONSES})

IS_NEW = "Aegis-Is-New"
_KINDS = {endpoint: kind for kind, endpoint in ENDPOINTS.items()}
_WINDOW = r"^\d{1,9}(\.\d{1,6})?[smhd]$"
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_JSON_LINES = "application/x-ndjson"
_LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {_JSON_LINES: {"schema": {"type": "string"}}},
        "description": "One object a line: `offset`, `status`, `line`.",
    }
}

_LINKS = links.by_id(
    "batch_id",
    show="show_v1_batches__batch_id__get",
    results="results_v1_batches__batch_id__results_get",
    cancel="cancel_v1_batches__batch_id__cancel_post",
    retry="retry_v1_batches__batch_id__retry_post",
    delete="delete_v1_batches__batch_id__delete",
)

IdempotencyKey = Annotated[
    str | None, Header(max_length=MAX_KEY_CHARS, description="The same key twice is the same batch, and the second makes none.")
]


def _is_window(value: str) -> str:
    if not re.fullmatch(_WINDOW, value):
        raise ValueError("write a number and a unit, such as 24h; the units are s, m, h and d")
    return value


Window = Annotated[str, AfterValidator(_is_window), Field(json_schema_extra={"pattern": _WINDOW})]
Key = Annotated[str, Field(min_length=1, max_length=MAX_KEY_CHARS)]


class Extras(BaseModel):
    """What OpenAI's batches have no word for. `schema` and `options` are for extractions."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    json_schema: dict[str, Any] | None = Field(None, alias="schema", description="A JSON Schema for what is extracted.")
    options: dict[str, Any] | None = Field(None, description="As those of a single extraction, but for `deadline_s`.")
    key: Key | None = Field(None, description="As the header Idempotency-Key.")
    policy: EnginePolicy = Field(EnginePolicy.PER_CALL, description="Each call follows the mode, or all stay on one engine.")
    stop_share: float = Field(0.5, ge=0, le=1, description="The share of failed items at which the job stops.")
    stop_window: int = Field(100, ge=1, le=1_000_000, description="The number of last items that the share is of.")
    name: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        None, description="What the batch is called; by default its file."
    )


class NewBatch(BaseModel):
    """What a batch is made of."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str
    endpoint: Endpoint
    completion_window: Window | None = Field(
        None, description="When it expires, such as `24h`; by default after the server's AEGIS_JOB_EXPIRES_S.", examples=["24h"]
    )
    metadata: dict[str, str] | None = None
    aegis: Extras = Field(default_factory=Extras)


class Retry(BaseModel):
    """How a batch is retried."""

    model_config = ConfigDict(extra="forbid")

    key: Key | None = None


class BatchList(BaseModel):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchDeleted(BaseModel):
    """What is said of a batch that is gone."""

    id: str
    object: Literal["batch"] = "batch"
    deleted: Literal[True] = True


@router.post(
    "",
    summary="Make a batch of an uploaded file",
    responses={**_LINKS, **failures.UNKNOWN, **failures.TOO_LARGE, **failures.FULL},
)
def create(asked: NewBatch, here: Here, response: Response, idempotency_key: IdempotencyKey = None) -> Batch:
    """Checks every line of the file, and answers once the batch is stored durably.

    Where any line is wrong there is no batch: the answer is 400, and its message names the first lines at fault. (OpenAI makes a
    batch of the status `failed`; whoever does not look at it again never learns what was wrong.)
    """
    made = here.desk.submit(_source(asked, here), _terms(asked, idempotency_key))
    log.info("batch.created" if made.is_new else "batch.known", job=made.job_id)
    response.headers[IS_NEW] = str(made.is_new).lower()
    return Batch.of(here.desk.find(made.job_id))


@router.get("", summary="List batches", responses={**failures.UNKNOWN})
def show_all(here: Here, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None) -> BatchList:
    """The newest first; those older than the batch `after`, if it is given."""
    page = here.desk.list(limit, after)
    data = [Batch.of(view) for view in page.jobs]
    first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
    return BatchList(data=data, first_id=first_id, last_id=last_id, has_more=page.has_more)


@router.get("/{batch_id}", summary="Show a batch", responses={**failures.UNKNOWN})
def show(batch_id: str, here: Here) -> Batch:
    """How it stands; `aegis.waits` says why it does not go on, where it does not."""
    return Batch.of(here.desk.find(batch_id))


@router.get("/{batch_id}/results", summary="Read results", response_class=Response, responses={**_LINES, **failures.UNKNOWN})
def results(
    batch_id: str,
    here: Here,
    *,
    ordered: Annotated[bool, Query(description="In the order of the inputs, not as they were written.")] = False,
    offset: Annotated[str | None, Query(description="The `offset` of the last line that was read before.")] = None,
) -> Response:
    """All lines that there are after `offset`. Whoever follows a batch asks again with the last one."""
    lines = _enveloped(here.desk, batch_id, ordered=ordered, offset=offset)
    return StreamingResponse(begun(lines), media_type=_JSON_LINES)


@router.post("/{batch_id}/cancel", summary="Cancel a batch", responses={**failures.UNKNOWN, **failures.FULL})
def cancel(batch_id: str, here: Here) -> Batch:
    """Calls in flight are closed at the engine; lines that are there stay. One that ends already stays as it is."""
    view = here.desk.cancel(batch_id)
    log.info("batch.cancelled", job=batch_id)
    return Batch.of(view)


@router.post("/{batch_id}/resume", summary="Go on with a batch that stopped", responses={**failures.UNKNOWN, **failures.FULL})
def resume(batch_id: str, here: Here) -> Batch:
    """For one that stopped because too many of its items failed."""
    view = here.desk.resume(batch_id)
    log.info("batch.resumed", job=batch_id)
    return Batch.of(view)


@router.post("/{batch_id}/retry", summary="Retry what failed", responses={**failures.UNKNOWN, **failures.FULL})
def retry(batch_id: str, here: Here, asked: Retry | None = None, idempotency_key: IdempotencyKey = None) -> Batch:
    """A new batch of the items that did not end `ok` or `empty`; the results of the old one then show each item's latest line."""
    here.desk.find(batch_id)  # one that is not there has no key either
    child = here.desk.retry(batch_id, key=_key(asked.key if asked else None, idempotency_key))
    log.info("batch.retried", job=batch_id, child=child)
    return Batch.of(here.desk.find(child))


@router.delete("/{batch_id}", summary="Delete a batch that has ended", responses={**failures.UNKNOWN})
def delete(batch_id: str, here: Here) -> BatchDeleted:
    """With its inputs and results."""
    here.desk.delete(batch_id)
    log.info("batch.deleted", job=batch_id)
    return BatchDeleted(id=batch_id)


def _source(asked: NewBatch, here: Place) -> JsonLines:
    upload = here.uploads.get(asked.input_file_id)
    source = JsonLines(
        [str(here.uploads.content(upload.id))], stdin=None, max_text_bytes=here.settings.max_text_bytes, origin=Origin.HTTP
    )
    source.name = asked.aegis.name or upload.name
    return source


def _terms(asked: NewBatch, idempotency_key: str | None) -> Terms:
    extras, window = asked.aegis, asked.completion_window
    return Terms(
        kind=_KINDS[asked.endpoint],
        schema=extras.json_schema,
        options=extras.options,
        key=_key(extras.key, idempotency_key),
        metadata=asked.metadata or {},
        policy=extras.policy,
        expires_s=None if window is None else float(window[:-1]) * _UNIT_S[window[-1]],
        stop_share=extras.stop_share,
        stop_window=extras.stop_window,
        completion_window=window,
        input_file_id=asked.input_file_id,
    )


def _key(given: str | None, header: str | None) -> str | None:
    if given is not None and header not in {None, given}:
        raise Refused(400, "the key and the header Idempotency-Key differ: give one of them", param="key", code="invalid_request")
    return given or header or None


def _enveloped(desk: Desk, batch_id: str, *, ordered: bool, offset: str | None) -> Iterator[bytes]:
    """Result lines in pieces, each line with its offset and its status."""
    lines = desk.lines(batch_id, ordered=ordered, offset=offset)
    return pieces(
        b'{"offset":"%s","status":"%s","line":%s}\n' % (line.offset.encode(), line.status.encode(), line.body) for line in lines
    )
