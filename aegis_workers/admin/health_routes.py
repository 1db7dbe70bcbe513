"""`/healthz` and `/readyz`: what a supervisor asks, without a token."""

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from aegis_workers.admin.door import HEALTH_PATH, READY_PATH
from aegis_workers.admin.failures import Failure
from aegis_workers.admin.place import Here

router = APIRouter(tags=["health"])

_NOT_READY: Mapping[int | str, dict[str, Any]] = {
    503: {"model": Failure, "description": "Redis does not answer; the message says why."}
}


class Health(BaseModel):
    """That all is well."""

    status: Literal["ok"] = "ok"


@router.get(HEALTH_PATH, summary="Say that the server lives")
async def lives() -> Health:
    """Open to all, and asks neither Redis nor the disk."""
    return Health()


@router.get(READY_PATH, summary="Say that the server can work", responses={**_NOT_READY})
def is_ready(here: Here) -> Health:
    """Open to all. The server can work while Redis answers."""
    with here.reach.redis() as client:
        client.ping()
    return Health()
