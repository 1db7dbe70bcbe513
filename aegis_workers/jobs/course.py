"""The course of a job: from what it is on disk and in Redis to the next step that its leader takes.

No step is remembered: each is decided anew, so that a leader may end between any two.
"""

from dataclasses import dataclass
from enum import StrEnum

from aegis_workers.jobs.journal import State
from aegis_workers.state.job_state import JobState
from aegis_workers.state.job_state import State as RedisState


class Step(StrEnum):
    """What a leader does with a job next.

    `forget`: it has ended, Redis need not know it. `expire`: write down that its time is up. `install`: Redis does not know it as
    the disk does. `close`: from here on nothing more is fed or recorded. `collect`: outcomes wait. `break_off`: what has no
    outcome gets its last line. `finish`: all is there. `go_on`: nothing but feeding is to be done.
    """

    FORGET = "forget"
    EXPIRE = "expire"
    INSTALL = "install"
    CLOSE = "close"
    COLLECT = "collect"
    BREAK_OFF = "break_off"
    FINISH = "finish"
    GO_ON = "go_on"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A job at one moment. `collected`: the number of the last outcome on disk; `missing`: how many chunks have none there.

    `has_expired`: its time is up; `expires`: its journal says so.
    """

    state: State
    has_expired: bool
    expires: bool
    collected: int
    missing: int
    in_redis: JobState | None


def decide(facts: Facts) -> Step | None:
    """The next step; None where a job that has ended is forgotten already."""
    found = facts.in_redis
    if facts.state.is_terminal:
        return None if found is None else Step.FORGET
    ends = facts.state is State.CANCELLING or facts.expires
    if facts.has_expired and facts.missing and not ends:
        return Step.EXPIRE
    return _in_redis(facts, ends=ends)


def _in_redis(facts: Facts, *, ends: bool) -> Step:
    found = facts.in_redis
    if found is None or found.collected != facts.collected or (found.state is RedisState.CLOSING and not ends):
        return Step.INSTALL
    if ends and found.state is RedisState.OPEN:
        return Step.CLOSE
    if found.recorded > found.collected:
        return Step.COLLECT
    if ends:
        return Step.BREAK_OFF
    return Step.GO_ON if facts.missing else Step.FINISH
