"""Which engines should run: the table "Which engines should run" of the design as a pure function, with the reasons in words."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from aegis_workers.controller.driver import Presence
from aegis_workers.controller.snapshot import EngineFacts, Room, Snapshot
from aegis_workers.routing import Engine, Mode
from aegis_workers.state.engine_control import Phase

# A vLLM that failed to start this often lets Ollama run in its place, where only one of them can. The other way round there is
# no stand-in: who chose `ollama` or `auto` has not chosen to pay for vLLM.
START_TRIES: Final = 2

# An engine that was on its way, or there, when the work ended stays for the idle time; one that was not does not come for it.
_THERE: Final = frozenset({Phase.STARTING, Phase.WARMING, Phase.READY})
_PROFILE: Final = "PROFILE="
# The origin of a choice that rests on there being no work.
ON_DEMAND: Final = "AEGIS_VLLM_ON_DEMAND"


class Choice(StrEnum):
    """What becomes of an engine. `leave`: it is neither started nor stopped, and calls may use it."""

    RUN = "run"
    OFF = "off"
    LEAVE = "leave"


@dataclass(frozen=True, kw_only=True)
class Want:
    """What should become of an engine, why, and where that was decided.

    `gave_up`: the mode wants it, but it failed so often that the other engine runs in its place.
    """

    choice: Choice
    reason: str
    origin: str
    gave_up: bool = False


def room(snapshot: Snapshot) -> Room:
    """By the budget where there is one, else by what was measured; no room where neither says so."""
    if snapshot.room is not None:
        return snapshot.room
    rules = snapshot.rules
    needed = sum(rules.sizes_gb.values())
    words = f"both together need {needed:.1f} GB"
    if rules.budget_gb is not None:
        return Room(both=needed <= rules.budget_gb, why=f"{words}, AEGIS_MEMORY_BUDGET_GB is {rules.budget_gb:.1f}")
    total = snapshot.memory.total_gb
    if total is None:
        return Room(both=False, why=f"{words}, and the memory is not measured: set AEGIS_MEMORY_BUDGET_GB")
    return Room(both=needed <= total, why=f"{words}, there are {total:.1f} GB ({snapshot.memory.source})")


def exclusive(snapshot: Snapshot) -> bool:
    """Whether one engine must have left before the other may come, and somebody here can make it so."""
    facts = snapshot.engines.values()
    return all(one.configured for one in facts) and any(one.can_start for one in facts) and not room(snapshot).both


def decide(snapshot: Snapshot) -> Mapping[Engine, Want]:
    """What should become of each engine."""
    wants = _one(snapshot) if exclusive(snapshot) else _both(snapshot)
    return {engine: _possible(snapshot, wants[engine], engine) for engine in Engine}


def _one(snapshot: Snapshot) -> dict[Engine, Want]:
    """Where the engines exclude each other."""
    first = Engine.VLLM if snapshot.mode is Mode.VLLM else Engine.OLLAMA
    if first is Engine.VLLM and _gave_up(snapshot, first):
        return _stand_in(snapshot, first)
    return {first: _on_demand(snapshot, first, _run(snapshot)), first.other: _crowded_out(snapshot, first.other)}


def _crowded_out(snapshot: Snapshot, engine: Engine) -> Want:
    why = room(snapshot).why
    if snapshot.mode is Mode.AUTO:
        return Want(choice=Choice.OFF, reason=f"no room for {engine.label}: {why}", origin=snapshot.origin)
    return _off(snapshot)


def _gave_up(snapshot: Snapshot, engine: Engine) -> bool:
    """Whether it is the other's turn: of two that fail, the one that did so less often is tried."""
    own, others = _failures(snapshot.engines[engine]), _failures(snapshot.engines[engine.other])
    return own >= START_TRIES and others < own


def _failures(facts: EngineFacts) -> int:
    control = facts.control
    if control is None or (facts.asked is not None and control.phase is Phase.FAILED and facts.asked > control.since):
        return 0
    return control.failures


def _stand_in(snapshot: Snapshot, failed: Engine) -> dict[Engine, Want]:
    failed_reason = f"{failed.other.label} runs in its place until the mode is set again"
    reason = f"in the place of {failed.label}, which did not start"
    return {
        failed: Want(choice=Choice.OFF, reason=failed_reason, origin=snapshot.origin, gave_up=True),
        failed.other: Want(choice=Choice.RUN, reason=reason, origin=snapshot.origin),
    }


def _both(snapshot: Snapshot) -> dict[Engine, Want]:
    """Where there is room for both, one of them is not configured, or nobody here can start either."""
    vllm, ollama = _on_demand(snapshot, Engine.VLLM, _run(snapshot)), _run(snapshot)
    if snapshot.mode is Mode.VLLM:
        reason = f"mode {snapshot.mode}: loads when work falls back to it"
        ollama = Want(choice=Choice.LEAVE, reason=reason, origin=snapshot.origin)
    elif snapshot.mode is Mode.OLLAMA:
        vllm = _off(snapshot)
    return {Engine.VLLM: vllm, Engine.OLLAMA: ollama}


def _run(snapshot: Snapshot) -> Want:
    return Want(choice=Choice.RUN, reason=f"mode {snapshot.mode}", origin=snapshot.origin)


def _off(snapshot: Snapshot) -> Want:
    reason = f"config: {snapshot.origin}" if snapshot.origin.startswith(_PROFILE) else f"mode {snapshot.mode}"
    return Want(choice=Choice.OFF, reason=reason, origin=snapshot.origin)


def _on_demand(snapshot: Snapshot, engine: Engine, want: Want) -> Want:
    facts, rules, work = snapshot.engines[engine], snapshot.rules, snapshot.work
    if engine is not Engine.VLLM or not rules.on_demand or not facts.can_start or work.is_there:
        return want
    if _is_there(facts) and work.idle_s < rules.idle_s:
        return replace(want, reason=f"{want.reason}; it is released after {rules.idle_s:g} s without extraction work")
    return Want(choice=Choice.OFF, reason=f"on demand, by {rules.on_demand_by}: no extraction work", origin=ON_DEMAND)


def _is_there(facts: EngineFacts) -> bool:
    if facts.control is None:
        return facts.seen.presence is not Presence.ABSENT
    return facts.control.phase in _THERE


def _possible(snapshot: Snapshot, want: Want, engine: Engine) -> Want:
    """What can be had of an engine that is not configured, or that somebody else runs."""
    facts = snapshot.engines[engine]
    if not facts.configured:
        return Want(choice=Choice.OFF, reason="not configured", origin=f"AEGIS_{engine.upper()}_MODEL")
    if want.choice is Choice.OFF and not facts.can_start and not exclusive(snapshot):
        return replace(want, choice=Choice.LEAVE, reason=f"mode {snapshot.mode}: not needed; somebody else runs it")
    return want
