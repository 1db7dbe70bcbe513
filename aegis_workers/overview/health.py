"""What an engine is for the calls of now: one word, the reason where it does not serve, and what it serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

from aegis_workers import origins, routing
from aegis_workers.dispatch import fleet
from aegis_workers.engines.base import Readiness
from aegis_workers.overview.look import Look
from aegis_workers.routing import Engine, EngineView, Mode, Policy, Run, TaskType
from aegis_workers.state.engine_control import Control, Phase

_LEAVING: Final = frozenset({Phase.DRAINING, Phase.STOPPING})
_COMING: Final = frozenset({Phase.STARTING, Phase.WARMING})
STALE: Final = "nobody looks at it: a worker does so while it runs"


class Health(StrEnum):
    """What an engine is now. `disabled`: the mode does not use it."""

    OK = "ok"
    STARTING = "starting"
    DRAINING = "draining"
    UNAVAILABLE = "unavailable"
    DISABLED = "disabled"
    NOT_CONFIGURED = "not_configured"


class Word(StrEnum):
    """The same for people, who want to know whether an engine that does not serve should do so."""

    ACTIVE = "Active"
    INACTIVE = "Inactive"
    DISABLED = "Disabled"
    STARTING = "Starting…"
    DRAINING = "Draining…"
    FAILED = "Failed"
    NOT_CONFIGURED = "Not configured"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One engine now. `reason`: why it is not `ok`, in words, None where it is. `serves`: the task types that are routed there.

    `tokens_per_s`: of calls that ended lately, None where none did.
    """

    health: Health
    word: Word
    reason: str | None
    serves: Sequence[TaskType]
    tokens_per_s: float | None


def standings(look: Look) -> Mapping[Engine, Standing]:
    """How each engine stands."""
    views = {engine: _view(look, engine) for engine in Engine}
    decided = {kind: routing.decide(kind, look.mode.mode, views, look.settings.fallback) for kind in TaskType}
    serves = {
        engine: [kind for kind, decision in decided.items() if isinstance(decision, Run) and decision.engine is engine]
        for engine in Engine
    }
    return {engine: _standing(look, engine, views[engine], serves[engine]) for engine in Engine}


def _view(look: Look, engine: Engine) -> EngineView:
    """As the workers have it. Nobody has looked for long, or leads: then it is not what it was found or said to be before."""
    status, stale = look.statuses[engine], look.is_stale(engine)
    ready = (replica for replica in status.replicas if replica.state is Readiness.READY)
    lets_through = any(replica.breaker.lets_through(look.now_ms) for replica in ready)
    return EngineView(
        configured=look.is_configured(engine),
        up=lets_through and not status.fenced and not stale,
        starting=status.is_starting and (look.controller is not None if status.fenced else not stale),
        reason=STALE if stale and not status.fenced else fleet.not_up(status, look.now_ms),
    )


def _standing(look: Look, engine: Engine, view: EngineView, serves: Sequence[TaskType]) -> Standing:
    health = _health(look, engine, view, serves)
    return Standing(
        health=health,
        word=_word(look, engine, health),
        reason=None if health is Health.OK else _reason(look, engine, view, health),
        serves=serves,
        tokens_per_s=look.tokens_per_s(engine),
    )


def _health(look: Look, engine: Engine, view: EngineView, serves: Sequence[TaskType]) -> Health:
    phase = _led_phase(look, engine)
    if not view.configured:
        return Health.NOT_CONFIGURED
    if phase in _LEAVING:
        return Health.DRAINING
    if serves:
        return Health.OK
    if phase in _COMING:
        return Health.STARTING
    return _unused(look, engine, view)


def _unused(look: Look, engine: Engine, view: EngineView) -> Health:
    if look.mode.mode is Mode(engine.other):
        return Health.DISABLED
    if view.starting:
        return Health.STARTING
    return Health.OK if view.up else Health.UNAVAILABLE


def _led_phase(look: Look, engine: Engine) -> Phase | None:
    """Where the controller has it; None where none leads: what the last one wrote is no news then."""
    control = look.statuses[engine].control
    return None if control is None or look.controller is None else control.phase


def _word(look: Look, engine: Engine, health: Health) -> Word:
    match health:
        case Health.OK:
            return Word.ACTIVE
        case Health.STARTING:
            return Word.STARTING
        case Health.DRAINING:
            return Word.DRAINING
        case Health.DISABLED:
            return Word.DISABLED
        case Health.NOT_CONFIGURED:
            return Word.NOT_CONFIGURED
        case Health.UNAVAILABLE:
            return Word.FAILED if _has_failed(look, engine) else Word.INACTIVE
        case _:
            assert_never(health)


def _has_failed(look: Look, engine: Engine) -> bool:
    """Whether it should serve, and does not: its start failed, or some calls would go there first."""
    control, status = look.statuses[engine].control, look.statuses[engine]
    if control is not None and control.phase is Phase.FAILED:
        return True
    if status.fenced or look.is_stale(engine):
        return False
    return any(routing.allowed(kind, look.mode.mode, Policy.HOLD) == (engine,) for kind in TaskType)


def _reason(look: Look, engine: Engine, view: EngineView, health: Health) -> str:
    control = look.statuses[engine].control
    match health:
        case Health.NOT_CONFIGURED:
            return f"AEGIS_{engine.upper()}_MODEL is not set"
        case Health.DISABLED:
            return _disabled(look, view, control)
        case Health.DRAINING | Health.STARTING if control is not None and control.reason:
            return control.reason
        case _:
            return view.reason or health.value


def _disabled(look: Look, view: EngineView, control: Control | None) -> str:
    if control is not None and control.fenced and control.reason:
        return control.reason
    settings, mode = look.settings, look.mode.mode
    origin = origins.chosen_by(settings, "LLM_ENGINE_MODE") if mode is settings.llm_engine_mode else ""
    why = f"config: {origin}" if origin.startswith("PROFILE=") else f"mode {mode}"
    return f"Not used ({why})" if view.up else f"Not started ({why})"
