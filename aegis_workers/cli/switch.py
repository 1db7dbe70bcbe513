"""`mode set --wait`: follows the engines until they are as the mode wants them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from aegis_workers import routing
from aegis_workers.cli.output import plain
from aegis_workers.routing import Engine, Mode, Policy, TaskType

if TYPE_CHECKING:
    import redis

    from aegis_workers.settings import Settings
    from aegis_workers.state.engine_control import Control
    from aegis_workers.state.engine_status import EngineStatus, Statuses

_LOOK_EVERY_S = 0.1
# What an engine says of the same phase changes with every number in it: it gets a line this often.
_LINE_EVERY_S = 10.0

NO_CONTROLLER = "No controller looks after the engines: nothing is started or stopped. Waiting until one of this mode answers."


@dataclass
class Following:
    """How the engines followed. `problem`: why they did not, in words; `phases`: what was seen, each at its second."""

    began: float = field(default_factory=time.monotonic)
    problem: str | None = None
    waited_s: float = 0.0
    phases: list[dict[str, Any]] = field(default_factory=list)
    _said: dict[Engine, tuple[str, str, float]] = field(default_factory=dict)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the mode was written."""
        return time.monotonic() - self.began

    def see(self, engine: Engine, state: str, reason: str, said: str, say: Callable[[str], None]) -> None:
        """Note the state of an engine, and say it where it is news, with what the engine wrote."""
        at_s = self.elapsed_s
        before = self._said.get(engine)
        if before is not None and before[0] == state and (before[1] == reason or at_s - before[2] < _LINE_EVERY_S):
            return
        self._said[engine] = state, reason, at_s
        self.phases.append({"engine": engine.value, "phase": state, "at_s": round(at_s, 2), "reason": reason, "said": said})
        say(plain(f"{at_s:7.1f} s  {engine.label:<6}  {_told(state, reason, said)}"))


def follow(client: "redis.Redis", settings: "Settings", mode: Mode, *, within_s: float, say: Callable[[str], None]) -> Following:
    """Returns when the engines have followed the mode that was just written, when that failed, or after `within_s`."""
    following, place, told = Following(), _Place(client, settings, mode), False
    while True:
        statuses, led = place.look()
        if not led and not told:
            told = True
            say(NO_CONTROLLER)
        for engine in Engine:
            following.see(engine, *place.state(engine, statuses[engine], led=led), say)
        verdict = place.led(statuses) if led else place.unled(statuses)
        following.waited_s = following.elapsed_s
        if verdict.failed or not verdict.awaited:
            following.problem = verdict.failed or None
            return following
        if following.waited_s >= within_s:
            following.problem = f"not done within {within_s:g} s; last: {verdict.awaited}"
            return following
        time.sleep(_LOOK_EVERY_S)


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """What failed, and what is still awaited, in words; both are empty once the engines have followed."""

    failed: str = ""
    awaited: str = ""


class _Place:
    """The mode and the engines, looked at from outside."""

    def __init__(self, client: "redis.Redis", settings: "Settings", mode: Mode) -> None:
        self._client = client
        self._settings = settings
        self._mode = mode

    def look(self) -> tuple["Statuses", bool]:
        """The engines, and whether a controller looks after them."""
        from aegis_workers.state import engine_status, leader

        statuses = {engine: engine_status.read(self._client, engine) for engine in Engine}
        led = leader.read(self._client) is not None and any(status.control is not None for status in statuses.values())
        return statuses, led

    def state(self, engine: Engine, status: "EngineStatus", *, led: bool) -> tuple[str, str, str]:
        """An engine's state, its reason, and what it wrote: by the controller's word, or as a worker found it."""
        if led and status.control is not None:
            return status.control.phase.value, status.control.reason, status.control.said
        return (status.state.value, status.reason, "") if self._is_configured(engine, status) else ("not configured", "", "")

    def led(self, statuses: "Statuses") -> _Verdict:
        """What the controller has yet to do."""
        from aegis_workers.controller import outlook
        from aegis_workers.state import memory

        if switched := self._switched():
            return _Verdict(failed=switched)
        measured, queued = memory.read(self._client), self._client.llen(TaskType.EXTRACTION)
        view = outlook.view(self._settings, self._mode, statuses, measured, now=time.time(), queued=queued)
        return _Verdict(
            failed="; ".join(_words(engine, statuses[engine].control) for engine in outlook.failed(view)),
            awaited="; ".join(_words(engine, statuses[engine].control) for engine in outlook.awaited(view)),
        )

    def unled(self, statuses: "Statuses") -> _Verdict:
        """What somebody else has yet to start."""
        from aegis_workers.engines.base import Readiness

        if switched := self._switched():
            return _Verdict(failed=switched)
        engines = sorted({routing.allowed(task_type, self._mode, Policy.HOLD)[0] for task_type in TaskType})
        configured = [engine for engine in engines if self._is_configured(engine, statuses[engine])]
        if not configured:
            names = " or ".join(f"AEGIS_{engine.upper()}_MODEL" for engine in engines)
            return _Verdict(failed=f"no engine that mode {self._mode} prefers is configured: set {names}")
        found = {engine: statuses[engine] for engine in configured}
        if any(status.state is Readiness.READY and not status.fenced for status in found.values()):
            return _Verdict()
        return _Verdict(
            awaited="; ".join(f"{engine.label}: {status.fence_reason or status.reason}" for engine, status in found.items())
        )

    def _is_configured(self, engine: Engine, status: "EngineStatus") -> bool:
        return bool(status.replicas) or self._settings.model(engine) is not None

    def _switched(self) -> str:
        from aegis_workers.state import mode as modes

        now = modes.read(self._client, self._settings.llm_engine_mode).mode
        return "" if now is self._mode else f"the mode was switched to {now} meanwhile"


def _words(engine: Engine, control: "Control | None") -> str:
    if control is None:
        return f"{engine.label}: the controller has said nothing of it yet"
    return f"{engine.label}: {_told(control.phase, control.reason, control.said)}"


def _told(state: str, reason: str, said: str) -> str:
    return (f"{state}: {reason}" if reason else state) + (f"; it wrote: {said}" if said else "")


def values(following: Following | None) -> dict[str, Any]:
    """What `--json` prints of it; nothing where nobody waited."""
    if following is None:
        return {}
    return {
        "followed": following.problem is None,
        "problem": following.problem,
        "waited_s": round(following.waited_s, 2),
        "phases": following.phases,
    }


def end(following: Following, mode: Mode) -> None:
    """Say how it ended, and end with status 1 where the engines did not follow."""
    from aegis_workers.cli import fail

    if following.problem is not None:
        fail(plain(f"The mode is written, and the engines did not follow: {following.problem}"))
    click.echo(f"The engines have followed mode {mode} after {following.waited_s:.1f} s.")
