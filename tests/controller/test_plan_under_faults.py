"""The plan under whatever may happen, in any order: what never happens, and that there is a way out of everything."""

from dataclasses import replace

import pytest
from engine_world import NEVER, SIZES, World
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aegis_workers.controller import wants
from aegis_workers.controller.driver import Presence
from aegis_workers.controller.snapshot import DrainThen, Rules, Work
from aegis_workers.controller.wants import Choice
from aegis_workers.routing import Engine, Mode
from aegis_workers.state.engine_control import Phase

engines = st.sampled_from(Engine)
# Most of what happens, happens to a system that has come to rest, or is in the midst of a switch.
spans = st.sampled_from([0.2, 1.0, 3.0, 15.0, 40.0, 130.0, 1000.0])
MOVING = {Phase.STARTING, Phase.WARMING, Phase.DRAINING, Phase.STOPPING}


class Faults(RuleBasedStateMachine):
    """A controller that leads two engines while everything that may go wrong does."""

    @initialize(
        budget_gb=st.sampled_from([50.0, 50.0, 100.0, None]),
        drain_then=st.sampled_from(DrainThen),
        on_demand=st.booleans(),
        is_external=st.sampled_from([False, False, False, True]),
        mode=st.sampled_from(Mode),
    )
    def begin(self, *, budget_gb: float | None, drain_then: DrainThen, on_demand: bool, is_external: bool, mode: Mode) -> None:
        rules = Rules(sizes_gb=SIZES, budget_gb=budget_gb, drain_then=drain_then, on_demand=on_demand, start_timeout_s=100.0)
        self.world = World(rules=rules, mode=mode, total_gb=budget_gb or 50.0)
        self.world.engines[Engine.OLLAMA].can_start = not is_external

    @rule(seconds=spans)
    def passes(self, seconds: float) -> None:
        self.world.run(seconds, every_s=max(0.2, seconds / 30.0))

    @rule(acts=st.integers(0, 4))
    def is_killed_between_two_acts(self, acts: int) -> None:
        for number, _ in enumerate(self.world.acts()):
            self.world.check()
            if number >= acts:
                break
        self.world.kill()

    @rule(mode=st.sampled_from(Mode), is_asked=st.booleans())
    def mode_is_written(self, mode: Mode, *, is_asked: bool) -> None:
        self.world.mode = mode
        if is_asked:
            self.world.asked = self.world.now

    @rule(modes=st.lists(st.sampled_from(Mode), min_size=3, max_size=3))
    def mode_is_written_three_times_within_a_second(self, modes: list[Mode]) -> None:
        for mode in modes:
            self.world.mode = mode
            self.world.run(0.3, every_s=0.1)

    @rule(engine=engines)
    def crashes(self, engine: Engine) -> None:
        self.world.engines[engine].crash(self.world.now)

    @rule(engine=engines, times=st.sampled_from([0, 1, 2, 999]))
    def will_not_start(self, engine: Engine, times: int) -> None:
        self.world.engines[engine].failing_starts = times

    @rule(engine=engines)
    def cannot_be_started_at_all(self, engine: Engine) -> None:
        self.world.engines[engine].is_refused = True

    @rule(engine=engines)
    def completes_no_token(self, engine: Engine) -> None:
        self.world.engines[engine].is_unproven = True

    @rule(engine=engines)
    def starts_for_ever(self, engine: Engine) -> None:
        self.world.engines[engine].start_s = NEVER

    @rule(engine=engines, seconds=st.sampled_from([0.0, 60.0, NEVER]))
    def gives_memory_back_late_or_never(self, engine: Engine, seconds: float) -> None:
        self.world.engines[engine].memory_late_s = seconds

    @rule(is_kept=st.booleans())
    def somebody_undoes_the_unload(self, *, is_kept: bool) -> None:
        self.world.engines[Engine.OLLAMA].is_kept_loaded = is_kept

    @rule()
    def somebody_loads_ollama(self) -> None:
        one = self.world.engines[Engine.OLLAMA]
        if one.presence is Presence.ABSENT:
            one.presence = Presence.PRESENT

    @rule()
    def ollama_unloads_by_itself(self) -> None:
        one = self.world.engines[Engine.OLLAMA]
        if one.presence is Presence.PRESENT and not one.calls:
            one.end(self.world.now)

    @rule(engine=engines)
    def does_not_answer_any_more(self, engine: Engine) -> None:
        one = self.world.engines[engine]
        if one.presence is Presence.PRESENT:
            one.presence = Presence.COMING

    @rule(engine=engines, seconds=st.sampled_from([5.0, 60.0, NEVER]))
    def a_call_comes(self, engine: Engine, seconds: float) -> None:
        self.world.call(engine, seconds)

    @rule(hang=st.booleans())
    def workers_freeze(self, *, hang: bool) -> None:
        self.world.hang = hang

    @rule(is_there=st.booleans(), idle_s=st.sampled_from([0.0, 1000.0]))
    def work_comes_and_goes(self, *, is_there: bool, idle_s: float) -> None:
        self.world.work = Work(is_there=is_there, idle_s=0.0 if is_there else idle_s)

    @rule(is_measured=st.booleans())
    def memory_cannot_be_measured(self, *, is_measured: bool) -> None:
        self.world.is_measured = is_measured

    @precondition(lambda self: self.world.rules.budget_gb is not None)
    @rule()
    def redis_is_wiped(self) -> None:
        self.world.records.clear()
        self.world.kill()

    @invariant()
    def nothing_is_as_it_must_not_be(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self._end_faults()
        self._settle_unasked()
        self.world.asked = self.world.now
        self.world.settle(within_s=8000.0)
        self._check(may_fail=False)

    def _end_faults(self) -> None:
        self.world.hang, self.world.is_measured = False, True
        for one in self.world.engines.values():
            one.failing_starts, one.start_s, one.memory_late_s = 0, 20.0, 2.0
            one.is_refused = one.is_unproven = one.is_kept_loaded = False
            one.holds_until = min(one.holds_until, self.world.now)
            one.calls = [min(end, self.world.now + 120.0) for end in one.calls]
            if one.presence is Presence.COMING:
                one.until = min(one.until, self.world.now + 20.0)
        if not self.world.engines[Engine.OLLAMA].can_start and self.world.mode is Mode.VLLM:
            self.world.engines[Engine.OLLAMA].end(self.world.now)  # whoever runs it gives room

    def _settle_unasked(self) -> None:
        """Without anybody who asks, an engine that gave up has a reason, and another one serves."""
        self.world.settle(within_s=8000.0)
        self._check(may_fail=True)

    def _check(self, *, may_fail: bool) -> None:
        world = self.world
        for engine, want in wants.decide(world.snapshot()).items():
            control, one = world.records[engine], world.engines[engine]
            assert control.phase not in MOVING or not one.can_start, control
            assert may_fail or not want.gave_up
            if want.choice is Choice.RUN and one.can_start:
                assert control.phase is Phase.READY, (engine, want, control)
            if want.choice is Choice.OFF and one.can_start:
                assert one.presence is Presence.ABSENT, (engine, want, control)
                assert control.phase is Phase.FAILED if want.gave_up else Phase.STOPPED


Faults.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=25, deadline=None)
TestFaults = pytest.mark.timeout(300)(Faults.TestCase)


def test_the_least_time_to_drain_ends_a_drain_whose_calls_never_end() -> None:
    rules = Rules(sizes_gb=SIZES, budget_gb=50.0, drain_s=0.0)
    world = World(rules=replace(rules, close_s=0.0), mode=Mode.OLLAMA)
    world.settle()
    world.hang = True
    world.call(Engine.OLLAMA, NEVER)
    world.mode = Mode.VLLM
    world.settle()
    assert world.phase(Engine.VLLM) is Phase.READY
