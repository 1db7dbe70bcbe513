"""A replica's breaker: shared by all workers, kept in its engine's hash, and moved by the script that gives slots out.

Calls that failed one after another open it, if they are distinct: one call that is asked again and again says little about the
engine. Once it has been open for its time a single call is let through as a trial, and decides.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# Distinct calls that must fail, with none served between them.
FAILURES_TO_OPEN: Final = 5
# How long it stays open: the first time, and at most; it doubles with every trial that fails.
FIRST_OPEN_S: Final = 1.0
LONGEST_OPEN_S: Final = 30.0


class Stand(StrEnum):
    """What a breaker lets through: everything, nothing, the next call as a trial, or nothing while the trial runs."""

    CLOSED = "closed"
    OPEN = "open"
    DUE = "due"
    TRIAL = "trial"


@dataclass(frozen=True, kw_only=True)
class Breaker:
    """What is on record. Times are milliseconds of Redis's clock.

    `failed`: the calls that failed since one was served. `opens`: how often in a row it opened; 0 is closed. `trial`: the lease
    under which the trial runs, believed until `trial_until_ms`.
    """

    failed: tuple[str, ...] = ()
    opens: int = 0
    until_ms: int = 0
    trial: str = ""
    trial_until_ms: int = 0

    def stands(self, now_ms: float) -> Stand:
        """What it lets through now."""
        if self.opens == 0:
            return Stand.CLOSED
        if now_ms < self.until_ms:
            return Stand.OPEN
        return Stand.TRIAL if self.trial and now_ms < self.trial_until_ms else Stand.DUE

    def lets_through(self, now_ms: float) -> bool:
        """Whether a call could be admitted now."""
        return self.stands(now_ms) in {Stand.CLOSED, Stand.DUE}

    def explain(self, now_ms: float) -> str:
        """Why it lets nothing through, in words; empty where it does."""
        match self.stands(now_ms):
            case Stand.OPEN:
                return f"its last calls failed: asked again in {max(1, round((self.until_ms - now_ms) / 1000))} s"
            case Stand.TRIAL:
                return "its last calls failed: one call tries whether it serves again"
            case Stand.CLOSED | Stand.DUE:
                return ""


CLOSED: Final = Breaker()


def decode(value: str | None) -> Breaker:
    """The breaker in a field of the engine's hash; a missing field is a closed one."""
    if value is None:
        return CLOSED
    facts = json.loads(value)
    return Breaker(**{**facts, "failed": tuple(facts.get("failed", ()))})
