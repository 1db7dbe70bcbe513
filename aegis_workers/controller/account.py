"""What is said in the log of engines that come and go, and how long each phase of a switch took."""

from typing import Final

import structlog

from aegis_workers import telemetry
from aegis_workers.controller.case import Step
from aegis_workers.routing import Engine
from aegis_workers.state.engine_control import Phase
from aegis_workers.state.switches import Course, Lasted
from aegis_workers.telemetry import PhaseEntered, SwitchFinished

log = structlog.get_logger(__name__)

_EVENTS: Final = {
    Phase.STOPPED: "engine.stopped",
    Phase.STARTING: "engine.started",
    Phase.WARMING: "engine.warmed",
    Phase.READY: "engine.ready",
    Phase.DRAINING: "engine.fenced",
    Phase.STOPPING: "engine.drained",
    Phase.FAILED: "engine.failed",
}
_RELEASED: Final = "engine.released"
# Phases that end by themselves: a switch is under way while an engine is in one.
MOVING: Final = frozenset({Phase.STARTING, Phase.WARMING, Phase.DRAINING, Phase.STOPPING})


class Account:
    """Of one reign: what another leader did of a switch is not in its sum."""

    def __init__(self) -> None:
        self._phases: dict[Engine, tuple[Phase, float]] = {}
        self._took: dict[tuple[Engine, Phase], float] = {}
        self._begun: float | None = None

    def note(self, engine: Engine, step: Step, now: float) -> None:
        """A step was written at `now`, in seconds of any clock that all notes share."""
        if step.enters is None:
            return
        before = step.before.phase if step.before is not None else None
        lasted_s = self._lasted(engine, now)
        self._phases[engine] = (step.enters, now)
        event = _RELEASED if before is Phase.STOPPING and step.enters is Phase.STOPPED else _EVENTS[step.enters]
        say = log.warning if step.enters is Phase.FAILED else log.info
        say(
            event,
            engine=engine.value,
            reason=step.after.reason,
            **({} if lasted_s is None else {f"{before}_s": round(lasted_s, 3)}),
        )
        telemetry.tell(PhaseEntered(engine=engine, phase=step.enters.value, before=before and before.value, lasted_s=lasted_s))
        if step.enters in MOVING and self._begun is None:
            self._begun = now

    def _lasted(self, engine: Engine, now: float) -> float | None:
        known = self._phases.get(engine)
        if known is None:
            return None
        phase, since = known
        if phase in MOVING:
            self._took[engine, phase] = round(self._took.get((engine, phase), 0.0) + now - since, 3)
        return now - since

    def settle(self, now: float) -> Course | None:
        """Nothing moves any more: how the engines followed since the last time; None where none had to."""
        begun, took = self._begun, self._took
        self._begun, self._took = None, {}
        if begun is None:
            return None
        seconds = round(now - begun, 3)
        log.info(
            "switch.finished", seconds=seconds, **{f"{engine}_{phase}_s": lasted for (engine, phase), lasted in took.items()}
        )
        telemetry.tell(SwitchFinished(took_s=seconds))
        phases = [Lasted(engine=engine, phase=phase, seconds=lasted) for (engine, phase), lasted in took.items()]
        return Course(began=begun, seconds=seconds, phases=phases)
