"""`/api/v1/admin/jobs`: bulk jobs as an operator looks at them, beside the batches of OpenAI's form."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query
from pydantic import BaseModel

from aegis_workers.admin import failures
from aegis_workers.admin.failures import Refused
from aegis_workers.admin.place import Here
from aegis_workers.errors import UnknownJob
from aegis_workers.jobs.journal import State
from aegis_workers.jobs.view import View
from aegis_workers.overview import job_rows
from aegis_workers.overview.job_rows import JobRow

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/api/v1/admin/jobs", tags=["jobs"], responses={**failures.RESPONSES})

_STEERED = {**failures.UNKNOWN, **failures.FULL}


class Jobs(BaseModel):
    """A page of jobs, the newest first. `has_more`: whether there are older ones; ask for those `after` the last one's id."""

    jobs: Sequence[JobRow]
    has_more: bool


class Job(BaseModel):
    """All of one job, as `aegis-workers status --json` prints it. Times are epoch seconds, rates a second."""

    id: str
    name: str
    input_name: str
    kind: str
    state: State
    waits: str | None
    created_at: float
    expires_at: float
    ended_at: float | None
    items: int
    done: int
    failed: int
    by_status: Mapping[str, int]
    chunks: int
    chunks_done: int
    in_flight: int | None
    items_per_s: float | None
    tokens_per_s: float | None
    remaining_s: float | None
    prompt_tokens: int
    completion_tokens: int
    attempts: int
    calls: Mapping[str, int]
    engine_s: Mapping[str, float]
    policy: str
    engine: str | None
    errors: Sequence[Mapping[str, Any]]
    metadata: Mapping[str, str]
    retry_of: str | None
    retries: Sequence[str]
    journal: Sequence[Mapping[str, Any]]


@router.get("", summary="List jobs", responses={**failures.MALFORMED})
def show_all(here: Here, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None) -> Jobs:
    """The newest first; those older than the job `after`, if it is given."""
    page = here.desk.list(limit, after)
    return Jobs(jobs=job_rows.rows(page.jobs), has_more=page.has_more)


@router.get("/{job_id}", summary="Show a job", responses={**failures.UNKNOWN})
def show(job_id: str, here: Here) -> Job:
    """How it stands; `waits` says why it does not go on, where it does not."""
    with _known():
        return _job(here.desk.find(job_id))


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=_STEERED)
def cancel(job_id: str, here: Here) -> Job:
    """Calls in flight are closed at the engine; lines that are there stay. One that ends already stays as it is."""
    return _steered(here.desk.cancel, job_id, "job.cancelled")


@router.post("/{job_id}/resume", summary="Go on with a job that stopped", responses=_STEERED)
def resume(job_id: str, here: Here) -> Job:
    """For one that stopped because too many of its items failed."""
    return _steered(here.desk.resume, job_id, "job.resumed")


@router.post("/{job_id}/retry", summary="Retry what failed", responses=_STEERED)
def retry(job_id: str, here: Here) -> Job:
    """The new job, of the items that did not end `ok` or `empty`; the old one's results then show each item's latest line."""
    with _known():
        child = here.desk.retry(job_id)
        log.info("job.retried", job=job_id, child=child, source="api")
        return _job(here.desk.find(child))


def _steered(steer: Callable[[str], View], job_id: str, event: str) -> Job:
    with _known():
        view = steer(job_id)
    log.info(event, job=job_id, source="api")
    return _job(view)


def _job(view: View) -> Job:
    return Job.model_validate(job_rows.values(view))


@contextmanager
def _known() -> Iterator[None]:
    """An operator asks for jobs, and not for batches."""
    try:
        yield
    except UnknownJob:
        raise Refused(
            404, "there is no job of this id: it never was, or it was deleted", param="job_id", code="not_found"
        ) from None
