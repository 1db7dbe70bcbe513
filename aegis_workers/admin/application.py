"""The application: every route, behind one door."""

from importlib import metadata

from fastapi import Depends, FastAPI, Security
from fastapi.security import HTTPBearer

from aegis_workers.admin import (
    batch_routes,
    beginning,
    engine_routes,
    failures,
    file_routes,
    health_routes,
    job_routes,
    overview_routes,
    page_routes,
    place,
    scrape,
)
from aegis_workers.admin.description import Described
from aegis_workers.admin.door import Door
from aegis_workers.admin.known import only_known
from aegis_workers.jobs.desk import Desk
from aegis_workers.settings import Settings

# Only to be described: the door asks for the token, before anything of a request is read.
_TOKEN = Security(HTTPBearer(auto_error=False, description="AEGIS_ADMIN_TOKEN of the server; not asked for where none is set."))


def build(settings: Settings, desk: Desk) -> FastAPI:
    """The application for these settings and the jobs of this desk. The data folder is met by the requests that need it."""
    here = place.make(settings, desk)
    app = Described(
        title="aegis-workers",
        version=metadata.version("aegis-workers"),
        summary="The engine mode, how the system stands, and bulk jobs in the form of OpenAI's batches.",
        docs_url=None,
        redoc_url=None,
        lifespan=beginning.lifespan(here),
    )
    app.state.place = here
    token = settings.admin_token
    app.add_middleware(
        Door,
        token=None if token is None else token.get_secret_value(),
        unbounded={file_routes.router.prefix: "POST"},
    )
    parts = [part.router for part in (engine_routes, overview_routes, job_routes, file_routes, batch_routes)]
    others = [health_routes.router, page_routes.router]
    metrics = scrape.router(settings)
    failures.handle(app, [*parts, metrics, *others])
    for router in parts:
        # Of ours, each refuses a parameter that it does not know as it refuses one that is malformed.
        malformed = failures.MALFORMED if router.prefix.startswith(failures.OUR_PREFIX) else {}
        app.include_router(router, dependencies=[_TOKEN, Depends(only_known)], responses={**malformed})
    app.include_router(metrics, dependencies=[_TOKEN])
    for router in others:
        app.include_router(router)
    return app
