"""An engine that should run: it waits for the other to leave and for memory, is started, proves itself, and serves."""

from collections.abc import Callable, Mapping
from typing import Final

from aegis_workers.controller import leaving
from aegis_workers.controller.case import Case, Effect, Step
from aegis_workers.controller.driver import Presence
from aegis_workers.state.engine_control import Phase

# An engine that ends sooner than this after it was ready has failed to start.
LIVED_S: Final = 60.0
# An engine that is there and does not answer for so long does not serve any more.
SILENT_S: Final = 60.0


def decide(case: Case) -> Step | None:
    """The next step on the way to `ready`; None where there is none to take now."""
    return _NEXT[case.control.phase](case)


def _serve_again(case: Case) -> Step:
    """It was about to leave."""
    if case.facts.seen.presence is not Presence.PRESENT:
        return case.move(Phase.STARTING, "it was to leave, and does not answer", began=case.now)
    return case.move(Phase.READY, case.want.reason, fenced=False)


def _keep(case: Case) -> Step | None:
    seen, lived_s = case.facts.seen, case.elapsed_s
    if case.is_absent and not seen.ended:  # a model was unloaded: nothing has failed
        return _begin(case)
    if case.is_absent:
        if lived_s < LIVED_S:
            return case.fail(f"ended {lived_s:.0f} s after it was ready")
        return case.move(Phase.STOPPED, "ended by itself: it is started again", failures=0, retry_at=None)
    if seen.presence is not Presence.COMING:
        kept = 0 if lived_s >= LIVED_S else case.control.failures
        return case.stay(case.want.reason, fenced=False, began=None, failures=kept, retry_at=None)
    began = case.control.began or case.now
    if case.now - began > SILENT_S:
        return case.move(Phase.STARTING, f"does not answer for {SILENT_S:g} s: {seen.reason}", began=case.now)
    return case.stay(case.want.reason, began=began)


def _begin(case: Case) -> Step | None:
    """Start it, or say what it waits for."""
    if case.exclusive and not case.other_left:
        return _await_other(case)
    if case.facts.seen.presence is Presence.GOING:
        return case.move(Phase.STOPPING, "gives its memory back before it is started", Effect.RELEASE)
    if not case.is_absent:
        return case.move(Phase.STARTING, "it is there already", began=case.now, retry_at=None)
    lacking = _lacking(case)
    if lacking:
        return _await_memory(case, lacking)
    if case.control.phase is Phase.STARTING:  # told already, as far as the record says; whether it heard is not known
        return case.stay(case.control.reason, Effect.START, fenced=True)
    reason = case.want.reason
    if case.memory.free_gb is None:
        reason += f"; memory is not measured: {case.memory.why}"
    began = case.control.began if case.control.phase is Phase.WARMING else None
    return case.move(Phase.STARTING, reason, Effect.START, began=began or case.now, retry_at=None)


def _lacking(case: Case) -> str:
    """The numbers where memory lacks; empty where it does not, or where this leader could never measure any."""
    memory, needed_gb = case.memory, case.rules.sizes_gb[case.facts.engine]
    if memory.free_gb is not None:
        is_enough = memory.free_gb >= needed_gb
        return "" if is_enough else f"{needed_gb:.1f} GB needed, {memory.free_gb:.1f} GB free ({memory.source})"
    if memory.total_gb is None:
        return ""
    return f"{needed_gb:.1f} GB needed, and what is free is not measured any more: {memory.why}"


def _await_other(case: Case) -> Step | None:
    other, label = case.other.control, case.other.engine.label
    is_stuck = (
        other is not None
        and other.phase is Phase.FAILED
        and (other.retry_at is None or case.now - other.since > case.rules.release_s)
        and case.other.seen.presence is not Presence.ABSENT
    )
    if other is not None and is_stuck:
        return case.fail(f"{label} holds the memory: it {other.reason}", for_good=True)
    return _wait(case, f"waits for {label} to leave" + (f": {other.phase}" if other is not None else ""))


def _wait(case: Case, reason: str) -> Step | None:
    if case.control.phase is Phase.STOPPED:
        return case.stay(reason, fenced=True, closing=False, began=None)
    return case.move(Phase.STOPPED, reason)


def _await_memory(case: Case, numbers: str) -> Step | None:
    is_waiting = case.control.phase is Phase.STOPPED
    began = (case.control.began if is_waiting else None) or case.now
    limit_s = case.rules.memory_gate_s
    if case.now - began > limit_s:
        cure = f"stop what holds it, or lower AEGIS_{case.facts.engine.upper()}_MEMORY_GB"
        return case.fail(f"no memory within AEGIS_MEMORY_GATE_S={limit_s:g}: {numbers}: {cure}", for_good=True)
    reason = f"waits for memory: {numbers}"
    if is_waiting:
        return case.stay(reason, fenced=True, closing=False, began=began)
    return case.move(Phase.STOPPED, reason, began=began)


def _await_answer(case: Case) -> Step | None:
    seen = case.facts.seen
    if case.facts.refused:
        return case.fail(case.facts.refused)
    if case.is_absent:
        return _lost(case, "ended while it started")
    if seen.presence is Presence.PRESENT and case.facts.answers:
        return case.move(Phase.WARMING, "answers: completes a first token", Effect.PROVE, began=case.control.began)
    return _overdue(case) or case.stay(seen.reason or case.control.reason, fenced=True)


def _await_proof(case: Case) -> Step | None:
    if case.is_absent:
        return _lost(case, "ended before it completed a token")
    if case.facts.proven:
        return case.move(Phase.READY, case.want.reason, fenced=False, retry_at=None)
    effect = None if case.facts.proving else Effect.PROVE
    words = f"completes no token yet: {case.facts.unproven}" if case.facts.unproven else case.control.reason
    return _overdue(case) or case.stay(words, effect, fenced=True)


def _lost(case: Case, ended: str) -> Step | None:
    """What comes of a start whose engine is not there any more: a failure where it ended, else it is started once more."""
    seen = case.facts.seen
    if seen.ended:
        return case.fail(f"{ended}: {seen.reason}" if seen.reason else ended)
    return _overdue(case) or _begin(case)


def _overdue(case: Case) -> Step | None:
    """The failure of a start that takes too long; None while it may go on."""
    limit_s, began = case.rules.start_timeout_s, case.control.began or case.control.since
    if case.now - began <= limit_s:
        return None
    return case.fail(f"not ready within AEGIS_START_TIMEOUT_S={limit_s:g} ({case.facts.unproven or case.facts.seen.reason})")


def _try_again(case: Case) -> Step | None:
    control = case.control
    if case.facts.asked is not None and case.facts.asked > control.since:
        phase, effect = (Phase.STOPPED, None) if case.is_absent else (Phase.STOPPING, Effect.RELEASE)
        return case.move(phase, "it is tried anew: an operator asked for it", effect, failures=0, retry_at=None)
    is_kept = control.retry_at is None and not case.is_absent  # by somebody, whatever it was told
    if is_kept and (case.other_left or not case.exclusive):
        return case.move(Phase.STARTING, f"serves again, because it {control.reason}", Effect.START, began=case.now)
    if control.retry_at is None or case.now >= control.retry_at:
        return case.move(Phase.STOPPED, f"tried again after: {control.reason}", retry_at=None)
    return case.stay(control.reason, None if case.is_absent else Effect.RELEASE, fenced=True)


_NEXT: Final[Mapping[Phase, Callable[[Case], Step | None]]] = {
    Phase.STOPPED: _begin,
    Phase.STARTING: _await_answer,
    Phase.WARMING: _await_proof,
    Phase.READY: _keep,
    Phase.DRAINING: _serve_again,
    Phase.STOPPING: leaving.finish,
    Phase.FAILED: _try_again,
}
