"""An engine that is neither started nor stopped here: the record follows what is observed."""

from typing import Any, Final

from aegis_workers.controller.case import Case, Step
from aegis_workers.controller.driver import Presence
from aegis_workers.controller.wants import Choice
from aegis_workers.state.engine_control import Phase

_OPEN: Final[dict[str, Any]] = {"fenced": False, "closing": False, "began": None, "failures": 0, "retry_at": None}
_PHASES: Final = {
    Presence.ABSENT: Phase.STOPPED,
    Presence.COMING: Phase.STARTING,
    Presence.PRESENT: Phase.READY,
    Presence.GOING: Phase.STOPPING,
}


def decide(case: Case) -> Step | None:
    """The record as it should be; None where it is so."""
    if _must_wait(case):
        reason = f"waits for {case.other.engine.label} to leave"
        is_waiting = case.control.phase is Phase.STOPPED
        return case.stay(reason, fenced=True, closing=False) if is_waiting else case.move(Phase.STOPPED, reason)
    said = case.facts.seen.reason
    return record(case, _PHASES[case.facts.seen.presence], f"{said} ({case.want.reason})" if said else case.want.reason)


def record(case: Case, phase: Phase, reason: str) -> Step | None:
    """Write that the engine is in this phase, and that calls may use it; None where that is written."""
    if phase is case.control.phase:
        return case.stay(reason, **_OPEN)
    return case.move(phase, reason, **_OPEN)


def _must_wait(case: Case) -> bool:
    """Whether calls may not use it yet, because the other engine has not given its memory back. One that serves goes on."""
    is_held = case.facts.control is None or case.facts.control.fenced
    return case.want.choice is Choice.RUN and case.exclusive and is_held and not case.other_left
