"""A host with two engines that takes no time: what the plan of the controller is tried on, and everything that may befall it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from aegis_workers.controller import wants
from aegis_workers.controller.case import Effect, Step
from aegis_workers.controller.driver import Observation, Presence
from aegis_workers.controller.plan import plan
from aegis_workers.controller.snapshot import EngineFacts, Memory, Rules, Snapshot, Work
from aegis_workers.controller.wants import Choice
from aegis_workers.routing import Engine, Mode
from aegis_workers.state.engine_control import Control, Phase

SIZES = {Engine.VLLM: 40.0, Engine.OLLAMA: 24.0}
NEVER = float("inf")


@dataclass(kw_only=True)
class FakeEngine:
    """An engine, and what it is going to do. Times in seconds of the world's clock."""

    engine: Engine
    can_start: bool = True
    presence: Presence = Presence.ABSENT
    ended: bool = False
    start_s: float = 20.0
    release_s: float = 3.0
    memory_late_s: float = 2.0
    failing_starts: int = 0
    is_kept_loaded: bool = False
    is_refused: bool = False
    is_unproven: bool = False
    until: float = NEVER
    holds_until: float = 0.0
    calls: list[float] = field(default_factory=list)

    def start(self, now: float) -> str:
        """Why the start was refused, if it was."""
        if self.is_refused:
            return "nobody listens there"
        if self.presence is Presence.GOING and self.is_kept_loaded:
            self.presence, self.until = Presence.PRESENT, NEVER
        if self.presence is Presence.ABSENT:
            self.presence, self.ended = Presence.COMING, False
            self.until = now + (self.start_s if self.failing_starts == 0 else self.start_s / 2)
        return ""

    def release(self, now: float) -> None:
        if self.presence in {Presence.PRESENT, Presence.COMING}:
            self.presence, self.until = Presence.GOING, now + self.release_s
            self.calls.clear()

    def end(self, now: float) -> None:
        """It is gone; its memory comes back a little later."""
        self.presence, self.until = Presence.ABSENT, NEVER
        self.holds_until = now + self.memory_late_s
        self.calls.clear()

    def crash(self, now: float) -> None:
        if self.presence is not Presence.ABSENT:
            self.end(now)
            self.ended = True

    def tick(self, now: float, *, is_closing: bool) -> None:
        if now >= self.until:
            self._turn(now)
        self.calls = [] if is_closing else [end for end in self.calls if end > now]

    def _turn(self, now: float) -> None:
        self.until = NEVER
        if self.presence is Presence.GOING and self.is_kept_loaded:
            self.until = now + self.release_s
        elif self.presence is Presence.GOING:
            self.end(now)
        elif self.presence is Presence.COMING and self.failing_starts > 0:
            self.failing_starts -= 1
            self.crash(now)
        elif self.presence is Presence.COMING:
            self.presence = Presence.PRESENT

    def held_gb(self, now: float) -> float:
        is_held = self.presence is not Presence.ABSENT or now < self.holds_until
        return SIZES[self.engine] if is_held else 0.0


@dataclass(kw_only=True)
class World:
    """The host, the records in Redis, and one controller that may be killed between any two of its acts."""

    rules: Rules
    mode: Mode = Mode.OLLAMA
    total_gb: float = 50.0
    engines: Mapping[Engine, FakeEngine] = field(default_factory=lambda: {engine: FakeEngine(engine=engine) for engine in Engine})
    records: dict[Engine, Control] = field(default_factory=dict)
    asked: float | None = None
    work: Work = field(default_factory=lambda: Work(is_there=True))
    is_measured: bool = True
    is_measurable: bool = True
    now: float = 1_000_000.0
    _fenced_at: dict[Engine, float] = field(default_factory=dict)
    refused: dict[Engine, str] = field(default_factory=dict)
    proven: set[Engine] = field(default_factory=set)
    effects: list[tuple[float, Engine, Effect]] = field(default_factory=list)

    @property
    def free_gb(self) -> float:
        return self.total_gb - sum(one.held_gb(self.now) for one in self.engines.values())

    def snapshot(self) -> Snapshot:
        why = "" if self.is_measured else "the source is away"
        memory = Memory(total_gb=self.total_gb if self.is_measurable else None, source="test", why=why)
        return Snapshot(
            now=self.now,
            mode=self.mode,
            origin=f"mode {self.mode}",
            engines={engine: self._facts(engine) for engine in Engine},
            memory=replace(memory, free_gb=self.free_gb) if self.is_measured else memory,
            rules=self.rules,
            work=self.work,
        )

    def _facts(self, engine: Engine) -> EngineFacts:
        one = self.engines[engine]
        is_present = one.presence is Presence.PRESENT
        return EngineFacts(
            engine=engine,
            configured=True,
            driver="fake",
            can_start=one.can_start,
            seen=Observation(presence=one.presence, ended=one.ended, last_words="it broke" if one.ended else ""),
            answers=is_present,
            leases=len(one.calls),
            control=self.records.get(engine),
            asked=self.asked,
            refused=self.refused.get(engine, ""),
            proven=engine in self.proven and is_present,
        )

    def acts(self) -> Iterator[tuple[Engine, Step, bool]]:
        """The acts of one pass, each done when the next is asked for: a record that is written, and (True) its effect."""
        for engine, step in plan(self.snapshot()).items():
            self.records[engine] = step.after
            if step.after.fenced:
                self._fenced_at.setdefault(engine, self.now)
            else:
                self._fenced_at.pop(engine, None)
            if step.enters not in {None, Phase.STARTING, Phase.WARMING}:
                self.forget(engine)
            yield engine, step, False
            if step.effect is not None:
                self._do(engine, step.effect)
                yield engine, step, True

    def step(self) -> None:
        """A whole pass."""
        for _ in self.acts():
            pass

    def forget(self, engine: Engine) -> None:
        self.refused.pop(engine, None)
        self.proven.discard(engine)

    def kill(self) -> None:
        """The controller dies; the next one knows nothing but what is in Redis and in the world."""
        for engine in Engine:
            self.forget(engine)

    def _do(self, engine: Engine, effect: Effect) -> None:
        one = self.engines[engine]
        self.effects.append((self.now, engine, effect))
        match effect:
            case Effect.START:
                self._check_start(engine)
                self.forget(engine)
                self.refused[engine] = one.start(self.now)
            case Effect.RELEASE:
                self._check_release(engine)
                self.forget(engine)
                one.release(self.now)
            case Effect.PROVE:
                if one.presence is Presence.PRESENT and not one.is_unproven:
                    self.proven.add(engine)

    def _check_start(self, engine: Engine) -> None:
        """Never a start before the gate, never two engines above the budget, and never vLLM against the mode."""
        has_room = wants.room(self.snapshot()).both
        assert engine is Engine.OLLAMA or self.mode is Mode.VLLM or (self.mode is Mode.AUTO and has_room), self.mode
        is_there = self.engines[engine].presence is not Presence.ABSENT
        assert not self.is_measured or is_there or self.free_gb >= SIZES[engine], f"{engine} starts with {self.free_gb} GB free"
        other = self.engines[engine.other]
        if self.is_exclusive and other.can_start:
            assert other.presence is Presence.ABSENT
            assert self.records[engine.other].fenced

    def _check_release(self, engine: Engine) -> None:
        """No call is cut off before it could end and go back to waiting. Phases in which it was may have ended meanwhile."""
        control = self.records[engine]
        assert control.fenced
        is_over = self.now - self._fenced_at[engine] >= self.rules.drain_s + self.rules.close_s
        is_lost = control.phase is Phase.FAILED or self.engines[engine].presence is Presence.GOING
        assert is_over or is_lost or not self.engines[engine].calls

    @property
    def is_exclusive(self) -> bool:
        return wants.exclusive(self.snapshot())

    def phase(self, engine: Engine) -> Phase | None:
        control = self.records.get(engine)
        return None if control is None else control.phase

    def tick(self, seconds: float) -> None:
        """Time passes, and what goes on in the engines with it."""
        self.now += seconds
        for engine, one in self.engines.items():
            control = self.records.get(engine)
            is_closing = control is not None and control.closing
            one.tick(self.now, is_closing=is_closing and not self.hang)

    # Calls that no worker closes: it is frozen.
    hang: bool = False

    def call(self, engine: Engine, seconds: float) -> None:
        """A call that is admitted if the engine is not fenced. An Ollama loads for it."""
        control, one = self.records.get(engine), self.engines[engine]
        if control is not None and control.fenced:
            return
        if engine is Engine.OLLAMA and one.presence is Presence.ABSENT:
            one.start(self.now)
        if one.presence is not Presence.ABSENT:
            one.calls.append(self.now + seconds)

    def run(self, seconds: float, *, every_s: float = 1.0) -> None:
        """Passes for so long."""
        end = self.now + seconds
        while self.now < end:
            self.step()
            self.tick(every_s)

    def settle(self, *, within_s: float = 4000.0) -> None:
        """Passes until nothing is left to do; fails where that takes too long."""
        end = self.now + within_s
        while self.now < end:
            if not plan(self.snapshot()):
                quiet_until = self.now + 700.0
                while self.now < quiet_until and not plan(self.snapshot()):
                    self.tick(35.0)
                if self.now >= quiet_until:
                    return
            self.step()
            self.tick(1.0)
        raise AssertionError({engine: (self.engines[engine].presence, control) for engine, control in self.records.items()})

    def check(self) -> None:
        """What holds between any two acts."""
        if len(self.records) == len(Engine) and self.is_exclusive:
            assert sum(not control.fenced for control in self.records.values()) <= 1, self.records
        for engine, control in self.records.items():
            assert control.reason, control
            one = self.engines[engine]
            if control.phase is Phase.READY and one.can_start:
                assert not control.fenced
        wanted = wants.decide(self.snapshot())
        assert not self.is_exclusive or any(want.choice is Choice.OFF for want in wanted.values())
