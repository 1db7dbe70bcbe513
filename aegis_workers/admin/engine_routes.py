"""`/api/v1/admin/llm/engine`: the engine mode, and what the engines are."""

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from aegis_workers.admin import failures
from aegis_workers.admin.place import Here
from aegis_workers.forms import Word
from aegis_workers.overview import health as healths
from aegis_workers.overview import look as looks
from aegis_workers.overview import prospect as prospects
from aegis_workers.overview.health import Health, Standing
from aegis_workers.routing import Engine, Mode
from aegis_workers.state import mode as modes
from aegis_workers.state.switches import Source

log = structlog.get_logger(__name__)
PREFIX = "/api/v1/admin"
router = APIRouter(prefix=f"{PREFIX}/llm/engine", tags=["engines"], responses={**failures.RESPONSES})

ChosenMode = Annotated[Mode, Word]
_TEN = 10


class EnginesHealth(BaseModel):
    """Of each engine its health; the reason in words where it is not `ok`, and what calls measured where it is."""

    ollama: Health
    ollama_throughput: str | None = Field(None, examples=["41 tok/s"])
    ollama_reason: str | None = None
    vllm: Health
    vllm_throughput: str | None = None
    vllm_reason: str | None = Field(None, examples=["Not started (config: PROFILE=chat_only)"])


class EngineState(BaseModel):
    """The mode in force, and how the engines are."""

    mode: Mode
    health: EnginesHealth


class NewMode(BaseModel):
    """The mode to switch to; space and case around it do not matter."""

    model_config = ConfigDict(extra="forbid")

    mode: ChosenMode


class Switched(BaseModel):
    """The mode in force from now on, and what the key held before; null where it held nothing."""

    mode: Mode
    previous: str | None


@router.get("", summary="Show the mode and the engines' health", response_model_exclude_none=True)
def show(here: Here) -> EngineState:
    """The mode in force now, and of each engine whether calls can go there."""
    with here.reach.redis() as client:
        look = looks.take(client, here.settings)
    found = healths.standings(look)
    facts: dict[str, Any] = {}
    for engine in (Engine.OLLAMA, Engine.VLLM):
        facts |= _facts(engine, found[engine])
    return EngineState(mode=look.mode.mode, health=EnginesHealth(**facts))


def _facts(engine: Engine, standing: Standing) -> dict[str, Any]:
    is_ok = standing.health is Health.OK
    return {
        engine.value: standing.health,
        f"{engine}_throughput": _throughput(standing.tokens_per_s) if is_ok else None,
        f"{engine}_reason": standing.reason,
    }


def _throughput(tokens_per_s: float | None) -> str | None:
    if tokens_per_s is None:
        return None
    return f"{tokens_per_s:.0f} tok/s" if tokens_per_s >= _TEN else f"{tokens_per_s:.1f} tok/s"


@router.put("", summary="Switch the mode", responses={**failures.MALFORMED})
def switch(asked: NewMode, here: Here) -> Switched:
    """Takes effect at the next task boundary: calls in flight finish where they are, new ones follow the new mode."""
    with here.reach.redis() as client:
        previous = modes.write(client, asked.mode, Source.API)
    log.info("mode.switched", mode=asked.mode.value, source=Source.API.value)
    return Switched(mode=asked.mode, previous=previous)


class EngineProspect(BaseModel):
    """What would become of one engine. `act`: what would be done; times in seconds, sizes in GB."""

    configured: bool
    act: str
    reason: str
    driver: str
    in_flight: int
    drain_s: float
    drain_then: str
    needs_gb: float


class Prospect(BaseModel):
    """What a switch would do, by what is known now."""

    mode: Mode
    previous: str | None
    dry_run: bool
    engines: dict[Engine, EngineProspect]
    memory: dict[str, Any] | None
    controller: str | None


@router.get("/prospect", summary="Say what a switch would do", responses={**failures.MALFORMED})
def prospect(here: Here, mode: Annotated[ChosenMode, Query(description="The mode that is asked about.")]) -> Prospect:
    """Nothing is written: what would be drained, stopped and started, and the memory for it."""
    with here.reach.redis() as client:
        return Prospect.model_validate(prospects.foresee(client, here.settings, mode))
