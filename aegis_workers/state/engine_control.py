"""What the leading controller makes of each engine, shared by all processes through Redis.

It lies beside what the prober finds: a process that routes needs both, and gets both by the same push.
"""

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where an engine is in its life, as the controller leads it."""

    STOPPED = "stopped"
    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Control:
    """An engine as the leader leads it. Times in epoch seconds.

    `fenced`: no call is admitted to it. `closing`: the calls in flight there are closed and go back to waiting. `driver`: the
    word of the setting. `failures`: failed starts since it last was ready or an operator asked anew. `retry_at`: no start before
    it. `origin`: where the setting came from that decided about it, in words such as "PROFILE=chat_only".
    """

    phase: Phase
    since: float
    reason: str = ""
    fenced: bool = False
    closing: bool = False
    driver: str = "external"
    failures: int = 0
    retry_at: float | None = None
    origin: str = ""
