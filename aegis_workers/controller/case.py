"""One engine in a snapshot with what should become of it, and the steps that can be made of that."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from aegis_workers.controller.driver import Presence
from aegis_workers.controller.snapshot import EngineFacts, Memory, Rules, Snapshot
from aegis_workers.controller.wants import START_TRIES, Choice, Want
from aegis_workers.routing import Mode
from aegis_workers.state.engine_control import Control, Phase

# A failed start is tried again after `_FIRST_RETRY_S`, then after `_RETRY_S`, doubled each time up to `_LONGEST_RETRY_S`.
_FIRST_RETRY_S: Final = 5.0
_RETRY_S: Final = 30.0
_LONGEST_RETRY_S: Final = 600.0
_MOST_DOUBLINGS: Final = 8
# What an engine says of its end is read in one line of a table.
_WORDS: Final = 400
_FOUND: Final = "as it was found"

_GONE: Final = frozenset({Phase.STOPPED, Phase.FAILED})


class Effect(StrEnum):
    """What is done to an engine. `prove`: let it complete one token, and say whether it did in the next snapshots."""

    START = "start"
    RELEASE = "release"
    PROVE = "prove"


@dataclass(frozen=True, kw_only=True)
class Step:
    """The record becomes `after`, if it still is `before`; then comes the effect, if any."""

    before: Control | None
    after: Control
    effect: Effect | None = None

    @property
    def enters(self) -> Phase | None:
        """The phase that begins with it; None where none does."""
        goes_on = self.before is not None and (self.before.phase, self.before.since) == (self.after.phase, self.after.since)
        return None if goes_on else self.after.phase


def backoff_s(failures: int) -> float:
    """How long a start is not tried again after so many failures."""
    if failures < START_TRIES:
        return _FIRST_RETRY_S
    return min(_LONGEST_RETRY_S, _RETRY_S * 2.0 ** min(failures - START_TRIES, _MOST_DOUBLINGS))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One engine, the other one, and what should become of both. Every method but the properties makes a step."""

    snapshot: Snapshot
    facts: EngineFacts
    want: Want
    other: EngineFacts
    other_want: Want
    exclusive: bool

    @property
    def now(self) -> float:
        """Epoch seconds."""
        return self.snapshot.now

    @property
    def rules(self) -> Rules:
        """The settings."""
        return self.snapshot.rules

    @property
    def memory(self) -> Memory:
        """What was measured."""
        return self.snapshot.memory

    @property
    def label(self) -> str:
        """The engine's name for people."""
        return self.facts.engine.label

    @property
    def control(self) -> Control:
        """The record; where there is none, the one that fits what is observed."""
        return self.facts.control or _adopted(self.facts, self.now)

    @property
    def is_absent(self) -> bool:
        """Whether nothing of the engine is there."""
        return self.facts.seen.presence is Presence.ABSENT

    @property
    def off_reason(self) -> str:
        """Why it does not run, where it should not."""
        return f"Not started ({self.want.reason})"

    @property
    def elapsed_s(self) -> float:
        """How long the phase has lasted."""
        return self.now - self.control.since

    @property
    def other_left(self) -> bool:
        """Whether the other engine is gone and cannot come back by a call: it is fenced, and holds nothing.

        What an engine holds that somebody else runs is not known: the memory gate decides there.
        """
        control = self.other.control
        absent = self.other.seen.presence is Presence.ABSENT or not self.other.can_start
        return control is not None and control.fenced and control.phase in _GONE and absent

    @property
    def forgotten(self) -> dict[str, Any]:
        """The change of the record that forgets failed starts; none where they decide whose turn it is."""
        if self.want.gave_up or self.want.choice is Choice.RUN:
            return {}
        others = 0 if self.other.control is None else self.other.control.failures
        takes_turns = self.exclusive and self.snapshot.mode is Mode.VLLM and others >= START_TRIES
        return {} if takes_turns else {"failures": 0, "retry_at": None}

    def move(self, phase: Phase, reason: str, effect: Effect | None = None, **changes: Any) -> Step:
        """Enter a phase, or begin it anew; fenced unless it is said otherwise."""
        unlike: dict[str, Any] = {"fenced": True, "closing": False, "began": None, "said": ""} | changes
        return self._step(replace(self.control, phase=phase, since=self.now, **unlike), reason, effect)

    def stay(self, reason: str, effect: Effect | None = None, **changes: Any) -> Step | None:
        """Remain in the phase; None where that changes nothing and there is nothing to do."""
        step = self._step(replace(self.control, **changes), reason, effect)
        return None if step.after == self.facts.control and effect is None else step

    def _step(self, control: Control, reason: str, effect: Effect | None) -> Step:
        after = replace(control, reason=reason, driver=self.facts.driver, origin=self.want.origin)
        return Step(before=self.facts.control, after=after, effect=effect)

    def fail(self, reason: str, *, for_good: bool = False) -> Step:
        """The start failed. `for_good`: another try would end like this one."""
        failures = self.control.failures + 1
        if for_good:
            failures = max(failures, START_TRIES)
        said = self.facts.seen.last_words.strip()[-_WORDS:]
        effect = Effect.RELEASE if self.facts.can_start and not self.is_absent else None
        retry_at = self.now + backoff_s(failures)
        return self.move(Phase.FAILED, reason, effect, failures=failures, retry_at=retry_at, said=said)


def of(snapshot: Snapshot, facts: EngineFacts, want: Want, other_want: Want, *, exclusive: bool) -> Case:
    """The case of one engine."""
    other = snapshot.engines[facts.engine.other]
    return Case(snapshot=snapshot, facts=facts, want=want, other=other, other_want=other_want, exclusive=exclusive)


def serves_instead(case: Case) -> bool:
    """Whether the engine goes on serving because the other one, which should run, does not do so yet."""
    if case.exclusive or case.other_want.choice is not Choice.RUN:
        return False
    return case.other.control is None or case.other.control.phase is not Phase.READY


def _adopted(facts: EngineFacts, now: float) -> Control:
    """Nobody has fenced it, and calls may be in flight there."""
    match facts.seen.presence:
        case Presence.ABSENT:
            return Control(phase=Phase.STOPPED, since=now, reason=_FOUND)
        case Presence.PRESENT if facts.answers:
            return Control(phase=Phase.READY, since=now, reason=_FOUND)
        case Presence.COMING | Presence.PRESENT:
            return Control(phase=Phase.STARTING, since=now, reason=_FOUND, began=now)
        case Presence.GOING:
            return Control(phase=Phase.STOPPING, since=now, reason=_FOUND)
