"""`/api/v1/admin`: how the system stands, at one moment and as it goes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from aegis_workers.admin import failures
from aegis_workers.admin.place import Here
from aegis_workers.origins import Setting
from aegis_workers.overview import cards, whole
from aegis_workers.overview import look as looks
from aegis_workers.overview.cards import Card
from aegis_workers.overview.whole import Overview, QueueRow, WorkerRow
from aegis_workers.routing import Engine, Mode
from aegis_workers.state import queues, switches
from aegis_workers.state.scripts import SWITCHES
from aegis_workers.state.switches import Switch

router = APIRouter(prefix="/api/v1/admin", tags=["overview"], responses={**failures.RESPONSES})

_EVENTS = "text/event-stream"
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {_EVENTS: {"schema": {"type": "string"}}},
        "description": "`overview` with the overview as data; `problem` with a `message` where Redis does not answer.",
    }
}
# A proxy that gathers what it passes on would hold events back.
_UNHELD = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Engines(BaseModel):
    """The mode in force, why it is not what the key holds where it is not, and the engines."""

    mode: Mode
    mode_problem: str | None
    engines: Mapping[Engine, Card]


class Queues(BaseModel):
    """Every queue."""

    queues: Sequence[QueueRow]


class Workers(BaseModel):
    """Every worker that lives."""

    workers: Sequence[WorkerRow]


class SettingsInForce(BaseModel):
    """Every setting with its value and where that came from; secrets are masked."""

    settings: Sequence[Setting]


class Switches(BaseModel):
    """Switches of the mode, the newest first."""

    switches: Sequence[Switch]


@router.get("/overview", summary="Show everything")
def overview(here: Here) -> Overview:
    """The mode, the engines, the queues, the newest jobs, the workers, the last switches, and what is wrong now."""
    return here.overview()


@router.get("/events", summary="Follow everything", response_class=Response, responses=_STREAM)
async def events(here: Here) -> Response:
    """Server-sent events: the overview when it has changed, four times a second at most, and every 10 s in any case."""
    return StreamingResponse(here.feed.listen(), media_type=_EVENTS, headers=_UNHELD)


@router.get("/engines", summary="Show the engines")
def engines(here: Here) -> Engines:
    """Each with its health in words, what is in flight there, and what the controller makes of it."""
    with here.reach.redis() as client:
        look = looks.take(client, here.settings)
    return Engines(mode=look.mode.mode, mode_problem=look.mode.problem, engines=cards.cards(look))


@router.get("/queues", summary="Show the queues")
def show_queues(here: Here) -> Queues:
    """How many messages wait in each, since when, and what the calls wait for that its workers hold."""
    with here.reach.redis() as client:
        return Queues(queues=whole.queue_rows(looks.take(client, here.settings), queues.read_all(client)))


@router.get("/workers", summary="Show the workers")
def workers(here: Here) -> Workers:
    """Each with its calls in flight, and with those that wait."""
    with here.reach.redis() as client:
        return Workers(workers=whole.worker_rows(looks.take(client, here.settings)))


@router.get("/settings", summary="Show the settings")
def settings(here: Here) -> SettingsInForce:
    """Those of this server. Secrets are masked, and so are passwords in addresses."""
    return SettingsInForce(settings=list(here.chosen.values()))


@router.get("/switches", summary="List switches of the mode", responses={**failures.MALFORMED})
def show_switches(here: Here, limit: Annotated[int, Query(ge=1, le=SWITCHES)] = 20) -> Switches:
    """Each with who made it, what it replaced, and how long each phase of the engines took. The last 200 are kept."""
    with here.reach.redis() as client:
        return Switches(switches=switches.read(client, limit))
