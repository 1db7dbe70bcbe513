"""The application: every route, behind one door."""

from importlib import metadata
from typing import Literal

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from aegis_workers.admin import batch_routes, failures, file_routes
from aegis_workers.admin.description import Described
from aegis_workers.admin.door import OPEN_PATH, Door
from aegis_workers.admin.place import Place
from aegis_workers.admin.uploads import Uploads
from aegis_workers.jobs.desk import Desk
from aegis_workers.settings import Settings

# Only to be described: the door asks for the token, before anything of a request is read.
_TOKEN = Security(HTTPBearer(auto_error=False, description="AEGIS_ADMIN_TOKEN of the server; not asked for where none is set."))


class Health(BaseModel):
    """That the server lives."""

    status: Literal["ok"] = "ok"


def build(settings: Settings, desk: Desk) -> FastAPI:
    """The application for these settings and the jobs of this desk. The data folder is met by the requests that need it."""
    app = Described(
        title="aegis-workers",
        version=metadata.version("aegis-workers"),
        summary="Bulk jobs over HTTP, in the form of OpenAI's batches.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.place = Place(settings=settings, desk=desk, uploads=Uploads(settings.data_dir))
    token = settings.admin_token
    app.add_middleware(
        Door,
        token=None if token is None else token.get_secret_value(),
        unbounded={file_routes.router.prefix: "POST"},
    )
    failures.handle(app)
    app.include_router(file_routes.router, dependencies=[_TOKEN])
    app.include_router(batch_routes.router, dependencies=[_TOKEN])
    app.add_api_route(OPEN_PATH, _health, summary="Say that the server lives", tags=["health"])
    return app


async def _health() -> Health:
    """Open to all, and asks neither Redis nor the disk."""
    return Health()
