"""What a mode means for the engines, for somebody who asks and does not lead: by what Redis says of them, and by settings."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

from aegis_workers.controller import snapshot as snapshots
from aegis_workers.controller import wants
from aegis_workers.controller.driver import Observation, Presence
from aegis_workers.controller.snapshot import EngineFacts, Room, Snapshot, Work
from aegis_workers.controller.wants import ON_DEMAND, START_TRIES, Choice, Want
from aegis_workers.engines.base import Readiness
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.state.engine_control import Phase
from aegis_workers.state.engine_status import EngineStatus, Statuses
from aegis_workers.state.memory import Memory

_EXTERNAL: Final = "external"
# Where a mode comes from that somebody asks about.
_ORIGIN: Final = "mode set"

_HERE: Final = frozenset({Phase.STARTING, Phase.WARMING, Phase.READY})
_PRESENCE: Final = {
    Phase.STOPPED: Presence.ABSENT,
    Phase.FAILED: Presence.ABSENT,
    Phase.STARTING: Presence.COMING,
    Phase.WARMING: Presence.COMING,
    Phase.READY: Presence.PRESENT,
    Phase.DRAINING: Presence.PRESENT,
    Phase.STOPPING: Presence.GOING,
}


class Act(StrEnum):
    """What would be done to an engine.

    `keep`: it runs, and goes on. `await`: somebody else runs it, and has to start it. `fence`: somebody else runs it, and no call
    goes there. `leave`: nothing, and calls may use it. `nothing`: it does not run, and stays so.
    """

    START = "start"
    STOP = "stop"
    KEEP = "keep"
    AWAIT = "await"
    FENCE = "fence"
    LEAVE = "leave"
    NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What a mode means for one engine."""

    act: Act
    want: Want
    facts: EngineFacts


def view(settings: Settings, mode: Mode, statuses: Statuses, memory: Memory | None, *, now: float, queued: int) -> Snapshot:
    """The engines under `mode`, as far as they are known here.

    `now`: epoch seconds; `queued`: messages in the queue of extraction.
    """
    return Snapshot(
        now=now,
        mode=mode,
        origin=_ORIGIN,
        engines={engine: _facts(engine, statuses[engine], settings) for engine in Engine},
        memory=snapshots.Memory() if memory is None else _measured(memory),
        room=None if memory is None else Room(both=memory.room_for_both, why=memory.why),
        rules=snapshots.rules(settings),
        work=Work(is_there=queued > 0 or _is_at_work(statuses[Engine.VLLM])),
    )


def _is_at_work(vllm: EngineStatus) -> bool:
    """Whether the leader, who sees what workers hold and what jobs have yet to feed, has it run for that."""
    control = vllm.control
    return control is not None and control.phase in _HERE and control.origin != ON_DEMAND


def prospects(snapshot: Snapshot) -> Mapping[Engine, Prospect]:
    """What would be done to each engine."""
    wanted = wants.decide(snapshot)
    return {
        engine: Prospect(act=_act(facts, wanted[engine]), want=wanted[engine], facts=facts)
        for engine, facts in snapshot.engines.items()
    }


def awaited(snapshot: Snapshot) -> Iterator[Engine]:
    """The engines that are not yet as they should be, by the word of the controller."""
    for engine, want in wants.decide(snapshot).items():
        if snapshot.engines[engine].configured and not _has_followed(snapshot.engines[engine], want):
            yield engine


def failed(snapshot: Snapshot) -> Iterator[Engine]:
    """The engines that should run, and were tried in vain since an operator last chose a mode."""
    for engine, want in wants.decide(snapshot).items():
        if want.gave_up or (want.choice is Choice.RUN and _is_given_up(snapshot.engines[engine])):
            yield engine


def _measured(memory: Memory) -> snapshots.Memory:
    return snapshots.Memory(free_gb=memory.free_gb, total_gb=memory.total_gb, source=memory.source)


def _facts(engine: Engine, status: EngineStatus, settings: Settings) -> EngineFacts:
    configured = settings.vllm_driver if engine is Engine.VLLM else settings.ollama_driver
    driver = configured if status.control is None else status.control.driver
    return EngineFacts(
        engine=engine,
        configured=bool(status.replicas) or settings.model(engine) is not None,
        driver=driver,
        can_start=driver != _EXTERNAL,
        seen=Observation(presence=_presence(status)),
        control=status.control,
        asked=status.asked_at,
    )


def _presence(status: EngineStatus) -> Presence:
    """By the controller's word, else by what a worker found: an Ollama that has not loaded its model holds nothing."""
    if status.control is not None:
        return _PRESENCE[status.control.phase]
    if any(replica.loaded for replica in status.replicas if replica.state is Readiness.READY):
        return Presence.PRESENT
    return Presence.COMING if status.state is Readiness.STARTING else Presence.ABSENT


def _act(facts: EngineFacts, want: Want) -> Act:
    is_there = facts.seen.presence is not Presence.ABSENT
    match want.choice:
        case Choice.LEAVE:
            return Act.LEAVE
        case Choice.RUN if is_there:
            return Act.KEEP
        case Choice.RUN:
            return Act.START if facts.can_start else Act.AWAIT
        case Choice.OFF if not is_there:
            return Act.NOTHING
        case Choice.OFF:
            return Act.STOP if facts.can_start else Act.FENCE
        case _:
            assert_never(want.choice)


def _has_followed(facts: EngineFacts, want: Want) -> bool:
    control = facts.control
    if control is None:
        return False
    match want.choice:
        case Choice.LEAVE:
            return True
        case Choice.RUN:
            return control.phase is Phase.READY and not control.fenced
        case Choice.OFF:
            return control.phase in {Phase.STOPPED, Phase.FAILED} if facts.can_start else control.fenced
        case _:
            assert_never(want.choice)


def _is_given_up(facts: EngineFacts) -> bool:
    control = facts.control
    if control is None or control.phase is not Phase.FAILED or control.failures < START_TRIES:
        return False
    return facts.asked is None or facts.asked <= control.since
