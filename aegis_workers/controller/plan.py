"""What the controller does next: a pure function from a snapshot to at most one step for each engine."""

from collections.abc import Mapping
from typing import assert_never

from aegis_workers.controller import case as cases
from aegis_workers.controller import coming, following, leaving, wants
from aegis_workers.controller.case import Case, Step
from aegis_workers.controller.snapshot import Snapshot
from aegis_workers.controller.wants import Choice
from aegis_workers.routing import Engine
from aegis_workers.state.engine_control import Phase


def plan(snapshot: Snapshot) -> Mapping[Engine, Step]:
    """The next step of each engine that has one to take now.

    Where the engines exclude each other, one is started only when the other is gone: no pass starts one and releases the other.
    """
    wanted, exclusive = wants.decide(snapshot), wants.exclusive(snapshot)
    steps = {}
    for engine, facts in snapshot.engines.items():
        case = cases.of(snapshot, facts, wanted[engine], wanted[engine.other], exclusive=exclusive)
        step = _step(case)
        if step is not None:
            steps[engine] = step
    return steps


def _step(case: Case) -> Step | None:
    if not case.facts.configured:
        return _disown(case)
    choice = case.want.choice
    match choice:
        case Choice.OFF:
            return leaving.decide(case)
        case Choice.RUN:
            return coming.decide(case) if case.facts.can_start else following.decide(case)
        case Choice.LEAVE:
            return following.decide(case)
        case _:
            assert_never(choice)


def _disown(case: Case) -> Step | None:
    """An engine without a model is ended if it was started from here, and no longer fenced: workers elsewhere may know it."""
    if case.facts.can_start and not case.is_absent:
        return leaving.decide(case)
    return None if case.facts.control is None else following.record(case, Phase.STOPPED, case.want.reason)
