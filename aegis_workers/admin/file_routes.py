"""`/v1/files`: uploads, and the results of batches as files."""

from typing import Annotated, Any, Literal, Self

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel

from aegis_workers.admin import failures, links, receiving, result_files
from aegis_workers.admin.failures import Refused
from aegis_workers.admin.listing import paged
from aegis_workers.admin.place import Here
from aegis_workers.admin.receiving import PURPOSE
from aegis_workers.admin.result_files import ResultFile
from aegis_workers.admin.streaming import begun
from aegis_workers.admin.uploads import Upload

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/files", tags=["files"], responses={**failures.RESPONSES})

_MAX_LISTED = 10_000
_DAY_S = 86_400.0
_BINARY = "application/octet-stream"
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
                    },
                }
            }
        },
    }
}
_LINKS = links.by_id(
    "file_id",
    show="show_v1_files__file_id__get",
    content="content_v1_files__file_id__content_get",
    delete="delete_v1_files__file_id__delete",
)
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {_BINARY: {"schema": {"type": "string", "format": "binary"}}}, "description": "The bytes of the file."}
}


class FileObject(BaseModel):
    """A file, as OpenAI describes one. Times are epoch seconds."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"
    status_details: str | None = None

    @classmethod
    def of_upload(cls, upload: Upload) -> Self:
        """An uploaded file."""
        return cls(
            id=upload.id,
            bytes=upload.size_bytes,
            created_at=int(upload.created_at),
            expires_at=None if upload.expires_at is None else int(upload.expires_at),
            filename=upload.name,
            purpose="batch",
        )

    @classmethod
    def of_results(cls, found: ResultFile) -> Self:
        """The results of a batch, as far as they are there."""
        return cls(
            id=found.id,
            bytes=found.size_bytes(),
            created_at=int(found.created_at),
            filename=f"{found.id}.jsonl",
            purpose="batch_output",
        )


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """What is said of a file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


@router.post(
    "",
    summary="Upload a file of input lines",
    responses={**_LINKS, **failures.TOO_LARGE, **failures.FULL},
    openapi_extra=_FORM,
)
async def upload(request: Request, here: Here) -> FileObject:
    """Stores the file durably; batches are made of it. Its lines are checked when a batch is made.

    It is kept for as long as an ended job (the server's AEGIS_JOB_RETENTION_DAYS), or as `expires_after` says.
    """
    days = here.settings.job_retention_days
    kept = await receiving.receive(request, here.uploads, here.settings.max_file_bytes, None if days is None else days * _DAY_S)
    log.info("file.uploaded", file=kept.id, bytes=kept.size_bytes)
    return FileObject.of_upload(kept)


@router.get("", summary="List uploaded files", responses={**failures.UNKNOWN})
def show_all(
    here: Here,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=_MAX_LISTED)] = _MAX_LISTED,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> FileList:
    """Uploads, the newest first. The results of a batch are not among them: the batch names its files."""
    uploads = here.uploads.all() if purpose in {None, PURPOSE} else []
    page = paged(uploads if order == "asc" else uploads[::-1], limit=limit, after=after)
    data = [FileObject.of_upload(upload) for upload in page.items]
    return FileList(data=data, first_id=page.first_id, last_id=page.last_id, has_more=page.has_more)


@router.get("/{file_id}", summary="Show a file", responses={**failures.UNKNOWN})
def show(file_id: str, here: Here) -> FileObject:
    """An upload, or results of a batch as far as they are there."""
    if result_files.is_named(file_id):
        return FileObject.of_results(result_files.find(file_id, here.desk))
    return FileObject.of_upload(here.uploads.get(file_id))


@router.get("/{file_id}/content", summary="Download a file", response_class=Response, responses={**_CONTENT, **failures.UNKNOWN})
def content(file_id: str, here: Here) -> Response:
    """The bytes of an upload, or the result lines that a batch has so far."""
    if result_files.is_named(file_id):
        return StreamingResponse(begun(result_files.find(file_id, here.desk).read()), media_type=_BINARY)
    return FileResponse(here.uploads.content(file_id), media_type=_BINARY)


@router.delete("/{file_id}", summary="Delete an uploaded file", responses={**failures.UNKNOWN})
def delete(file_id: str, here: Here) -> FileDeleted:
    """The batches that were made of it keep their inputs. Results go with their batch."""
    if result_files.is_named(file_id):
        result_files.find(file_id, here.desk)
        raise Refused(400, "results are deleted with their batch", param="file_id", code="invalid_request")
    here.uploads.delete(file_id)
    log.info("file.deleted", file=file_id)
    return FileDeleted(id=file_id)
