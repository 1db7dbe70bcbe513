"""What is said in the log of engines that come and go, and how long each phase of a switch took."""

from typing import Final

import structlog

from aegis_workers.controller.case import Step
from aegis_workers.routing import Engine
from aegis_workers.state.engine_control import Phase

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
        self._took: dict[str, float] = {}
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
        if step.enters in MOVING and self._begun is None:
            self._begun = now

    def _lasted(self, engine: Engine, now: float) -> float | None:
        known = self._phases.get(engine)
        if known is None:
            return None
        phase, since = known
        if phase in MOVING:
            name = f"{engine}_{phase}_s"
            self._took[name] = round(self._took.get(name, 0.0) + now - since, 3)
        return now - since

    def settle(self, now: float) -> None:
        """Nothing moves any more."""
        if self._begun is not None:
            log.info("switch.finished", seconds=round(now - self._begun, 3), **self._took)
        self._begun, self._took = None, {}
