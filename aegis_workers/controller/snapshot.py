"""What the plan sees: the mode, the engines as they are and as the record says, the memory, and the rules.

A snapshot is taken anew for each pass. Whatever of it is not read from Redis or observed is said to be so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from aegis_workers import origins
from aegis_workers.controller.driver import Observation
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.state.engine_control import Control


class DrainThen(StrEnum):
    """What becomes of calls in flight on a leaving engine when the time to drain is over."""

    CLOSE = "close"
    WAIT = "wait"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The settings that decide about engines. Times in seconds, sizes in GB; `budget_gb` is None where it is to be measured.

    `release_s`: how long an engine may take to give its memory back. `close_s`: how long calls may take to be closed; the lease
    of one whose worker died ends by itself within that time. `on_demand_by` and `drain_then_by`: what chose that, in words such
    as "PROFILE=engineering".
    """

    sizes_gb: Mapping[Engine, float]
    budget_gb: float | None = None
    drain_s: float = 120.0
    drain_then: DrainThen = DrainThen.CLOSE
    drain_then_by: str = "AEGIS_DRAIN_THEN"
    memory_gate_s: float = 120.0
    start_timeout_s: float = 900.0
    min_dwell_s: float = 10.0
    on_demand: bool = False
    on_demand_by: str = "AEGIS_VLLM_ON_DEMAND"
    idle_s: float = 600.0
    release_s: float = 60.0
    close_s: float = 30.0


def rules(settings: Settings) -> Rules:
    """The rules that the settings make."""
    return Rules(
        sizes_gb={engine: settings.memory_gb(engine) for engine in Engine},
        budget_gb=settings.memory_budget_gb,
        drain_s=settings.drain_s,
        drain_then=DrainThen(settings.drain_then),
        drain_then_by=origins.chosen_by(settings, "AEGIS_DRAIN_THEN"),
        memory_gate_s=settings.memory_gate_s,
        start_timeout_s=settings.start_timeout_s,
        min_dwell_s=settings.min_dwell_s,
        on_demand=settings.vllm_on_demand,
        on_demand_by=origins.chosen_by(settings, "AEGIS_VLLM_ON_DEMAND"),
        idle_s=settings.vllm_idle_s,
    )


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What was measured, in GB; None where it could not be. `source`: what measured it, `why`: why it could not.

    `total_gb` is what this leader measured last, and None only where it never could.
    """

    free_gb: float | None = None
    total_gb: float | None = None
    source: str = ""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """One engine now.

    `driver`: the word of the setting. `leases`: calls in flight there, over all workers. `control`: the record, None where there
    is none. `asked`: when an operator last asked for the engine anew, in epoch seconds. `answers`: a probe found it ready; looked
    for only where that decides something.

    What the leader knows of its own acts, and another one finds out by acting again: `refused`: why nothing was set in motion
    when it was last told to start. `proving`: a completion of one token is under way. `proven`: it was completed since the
    start. `unproven`: why the last one was not.
    """

    engine: Engine
    configured: bool
    driver: str
    can_start: bool
    seen: Observation
    answers: bool = False
    leases: int = 0
    control: Control | None = None
    asked: float | None = None
    refused: str = ""
    proving: bool = False
    proven: bool = False
    unproven: str = ""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Whether extraction work is there, and for how many seconds none was, as far as this leader saw."""

    is_there: bool = False
    idle_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Room:
    """Whether both engines fit at once, with the numbers in words."""

    both: bool
    why: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that a pass decides by. `now`: epoch seconds. `origin`: where the mode came from, in words.

    `room`: what the leader found of it, for one who does not lead and may have other settings; None for the leader, who finds it.
    """

    now: float
    mode: Mode
    origin: str
    engines: Mapping[Engine, EngineFacts]
    memory: Memory
    rules: Rules
    work: Work = Work()
    room: Room | None = None
