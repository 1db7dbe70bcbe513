"""What every route works with."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from aegis_workers.admin.uploads import Uploads
from aegis_workers.jobs.desk import Desk
from aegis_workers.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Place:
    """The settings in force, the jobs, and the uploaded files."""

    settings: Settings
    desk: Desk
    uploads: Uploads


def _here(request: Request) -> Place:
    place: Place = request.app.state.place
    return place


Here = Annotated[Place, Depends(_here)]
