"""An engine that should not run: it is fenced, drained, and gives its memory back."""

from typing import assert_never

from aegis_workers.controller.case import Case, Effect, Step, serves_instead
from aegis_workers.controller.snapshot import DrainThen
from aegis_workers.controller.wants import Choice
from aegis_workers.state.engine_control import Phase


def decide(case: Case) -> Step | None:
    """The next step on the way out; None where there is none to take now."""
    phase = case.control.phase
    if phase is not Phase.DRAINING and not case.control.fenced:
        return _fence(case)
    match phase:
        case Phase.DRAINING:
            return _drain(case)
        case Phase.STARTING | Phase.WARMING | Phase.READY:
            return _release(case) if case.facts.leases == 0 else _end_calls(case)
        case Phase.STOPPING:
            return finish(case)
        case Phase.STOPPED:
            return _stay_away(case)
        case Phase.FAILED:
            return _clear_away(case)
        case _:
            assert_never(phase)


def _fence(case: Case) -> Step | None:
    if case.control.phase is Phase.READY:
        if serves_instead(case):
            return case.stay(f"serves until {case.other.engine.label} is ready ({case.want.reason})")
        left_s = case.rules.min_dwell_s - case.elapsed_s
        if left_s > 0 and case.facts.control is not None:
            return case.stay(f"ready for {case.rules.min_dwell_s:g} s at least, then it leaves ({case.want.reason})")
    return _end_calls(case)


def _end_calls(case: Case) -> Step:
    return case.move(Phase.DRAINING, f"calls in flight end ({case.want.reason})")


def _drain(case: Case) -> Step | None:
    over_s = case.elapsed_s - case.rules.drain_s
    if case.facts.leases == 0:
        return _release(case)
    if over_s < 0:
        return case.stay(f"calls in flight end ({case.want.reason})", fenced=True)
    if case.rules.drain_then is DrainThen.WAIT:
        reason = f"calls in flight end, however long they take ({case.rules.drain_then_by}: wait; {case.want.reason})"
        return case.stay(reason, fenced=True)
    if over_s < case.rules.close_s:
        reason = f"calls in flight go back to waiting: they did not end within AEGIS_DRAIN_S={case.rules.drain_s:g}"
        return case.stay(reason, fenced=True, closing=True)
    return _release(case)


def _release(case: Case) -> Step:
    if not case.facts.can_start or (case.is_absent and case.facts.leases == 0):
        return _stopped(case)
    return case.move(Phase.STOPPING, f"gives its memory back ({case.want.reason})", Effect.RELEASE)


def finish(case: Case) -> Step | None:
    """The next step of an engine that was told to give its memory back."""
    if case.is_absent or not case.facts.can_start:
        return _stopped(case)
    if case.elapsed_s > case.rules.release_s:
        why = f"did not give its memory back within {case.rules.release_s:g} s: it does not end, or somebody keeps it loaded"
        said = case.facts.seen.reason
        return case.move(Phase.FAILED, f"{why} ({said})" if said else why, Effect.RELEASE, retry_at=None)
    return case.stay(case.control.reason, Effect.RELEASE, fenced=True)


def _stopped(case: Case) -> Step:
    """It may be wanted again by now."""
    reason = case.want.reason if case.want.choice is Choice.RUN else case.off_reason
    return case.move(Phase.STOPPED, reason, **case.forgotten)


def _stay_away(case: Case) -> Step | None:
    if case.facts.can_start and not case.is_absent:
        reason = f"somebody else started it: it gives its memory back ({case.want.reason})"
        return case.move(Phase.STOPPING, reason, Effect.RELEASE)
    return case.stay(case.off_reason, began=None, closing=False, **case.forgotten)


def _clear_away(case: Case) -> Step | None:
    """What is left of a failed start is released; what does not give its memory back is told so again and again."""
    if case.facts.can_start and not case.is_absent:
        return case.stay(case.control.reason, Effect.RELEASE)
    if case.want.gave_up:
        return case.stay(_with_stand_in(case))
    if not case.forgotten:
        return case.stay(case.control.reason)
    return case.move(Phase.STOPPED, case.off_reason, **case.forgotten)


def _with_stand_in(case: Case) -> str:
    said, instead = case.control.reason, case.want.reason
    return said if instead in said else f"{said}; {instead}"
