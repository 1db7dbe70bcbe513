"""What every route works with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from aegis_workers import origins
from aegis_workers.admin.feed import Feed
from aegis_workers.admin.reach import Reach
from aegis_workers.admin.uploads import Uploads
from aegis_workers.jobs.desk import Desk
from aegis_workers.origins import Setting
from aegis_workers.overview import whole
from aegis_workers.overview.whole import Overview
from aegis_workers.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Place:
    """The settings in force, each also with its origin, the jobs, the uploaded files, Redis, and what listeners are told."""

    settings: Settings
    chosen: Mapping[str, Setting]
    desk: Desk
    uploads: Uploads
    reach: Reach
    feed: Feed

    def overview(self) -> Overview:
        """The system now. Raises `RedisUnavailable`."""
        with self.reach.redis() as client:
            return whole.take(client, self.settings, self.chosen, lambda: whole.newest_jobs(self.desk))


def make(settings: Settings, desk: Desk) -> Place:
    """The place for these settings. Nothing is opened before it is needed."""
    chosen, reach = {setting.name: setting for setting in origins.explain(settings)}, Reach(settings)
    return Place(
        settings=settings,
        chosen=chosen,
        desk=desk,
        uploads=Uploads(settings.data_dir),
        reach=reach,
        feed=Feed(settings, chosen, reach, desk),
    )


def _here(request: Request) -> Place:
    place: Place = request.app.state.place
    return place


Here = Annotated[Place, Depends(_here)]
