"""What the controller does next: a switch step by step, and what it does where something goes wrong."""

from dataclasses import replace
from itertools import pairwise

import pytest
from engine_world import NEVER, SIZES, World

from aegis_workers.controller.case import Effect
from aegis_workers.controller.driver import Presence
from aegis_workers.controller.plan import plan
from aegis_workers.controller.snapshot import DrainThen, Rules
from aegis_workers.routing import Engine, Mode
from aegis_workers.state.engine_control import Control, Phase

VLLM, OLLAMA = Engine.VLLM, Engine.OLLAMA
TIGHT = Rules(sizes_gb=SIZES, budget_gb=50.0)
ROOMY = Rules(sizes_gb=SIZES, budget_gb=100.0)


def serving(engine: Engine = OLLAMA, rules: Rules = TIGHT, mode: Mode | None = None) -> World:
    """A host on which one engine has been ready for long."""
    world = World(rules=rules, mode=mode or Mode(engine.value), total_gb=rules.budget_gb or 0.0)
    world.settle()
    assert world.phase(engine) is Phase.READY
    world.effects.clear()
    return world


def phases(world: World, seconds: float = 300.0) -> list[tuple[Engine, Phase]]:
    """The phases that engines enter, in their order, until so much time has passed."""
    found: list[tuple[Engine, Phase]] = []
    end = world.now + seconds
    while world.now < end:
        for engine, step, is_effect in world.acts():
            if step.enters is not None and not is_effect:
                found.append((engine, step.enters))
        world.check()
        world.tick(1.0)
    return found


def control(world: World, engine: Engine) -> Control:
    return world.records[engine]


def test_a_switch_drains_hands_the_memory_over_and_proves_the_new_engine() -> None:
    world = serving()
    world.mode = Mode.VLLM
    world.call(OLLAMA, 30.0)
    assert phases(world) == [
        (OLLAMA, Phase.DRAINING),
        (OLLAMA, Phase.STOPPING),
        (OLLAMA, Phase.STOPPED),
        (VLLM, Phase.STARTING),
        (VLLM, Phase.WARMING),
        (VLLM, Phase.READY),
    ]
    assert not control(world, VLLM).fenced
    assert control(world, OLLAMA).fenced
    assert control(world, OLLAMA).reason == "Not started (mode vllm)"


def test_with_room_for_both_the_leaving_engine_serves_until_the_coming_one_is_ready() -> None:
    world = serving(VLLM, ROOMY)
    world.engines[OLLAMA].is_refused = False
    world.mode = Mode.OLLAMA
    found = phases(world)
    assert found.index((OLLAMA, Phase.READY)) < found.index((VLLM, Phase.DRAINING))
    assert world.phase(VLLM) is Phase.STOPPED


def test_with_room_for_both_the_leaving_engine_stays_where_the_coming_one_fails() -> None:
    world = serving(VLLM, ROOMY, Mode.VLLM)
    world.engines[OLLAMA].failing_starts = 99
    world.mode = Mode.OLLAMA
    world.run(1500.0)
    assert world.phase(VLLM) is Phase.READY
    assert world.phase(OLLAMA) in {Phase.FAILED, Phase.STARTING}
    starts = [at for at, engine, effect in world.effects if effect is Effect.START]
    gaps = [later - before for before, later in pairwise(starts)]
    assert gaps == sorted(gaps)  # ever longer pauses
    assert len(starts) < 10


def test_the_other_engine_starts_only_when_its_memory_is_free() -> None:
    world = serving()
    world.engines[OLLAMA].memory_late_s = 60.0
    world.mode = Mode.VLLM
    world.run(40.0)
    assert world.phase(VLLM) is Phase.STOPPED
    assert control(world, VLLM).reason == "waits for memory: 40.0 GB needed, 26.0 GB free (test)"
    world.settle()
    assert world.phase(VLLM) is Phase.READY


def test_memory_that_never_comes_back_ends_in_a_reason_with_numbers_and_the_engine_of_before() -> None:
    world = serving()
    world.engines[OLLAMA].memory_late_s = NEVER
    world.total_gb = 60.0  # enough for Ollama a second time
    world.mode = Mode.VLLM
    world.run(20.0)
    world.engines[OLLAMA].memory_late_s = 0.0
    world.run(TIGHT.memory_gate_s + 100.0)
    assert world.phase(VLLM) is Phase.FAILED
    reason = control(world, VLLM).reason
    assert reason.startswith("no memory within AEGIS_MEMORY_GATE_S=120: 40.0 GB needed, 36.0 GB free (test): stop what holds it")
    assert "or lower AEGIS_VLLM_MEMORY_GB" in reason
    assert world.phase(OLLAMA) is Phase.READY


def test_memory_that_cannot_be_measured_for_a_moment_is_waited_for() -> None:
    world = serving()
    world.is_measured = False
    world.mode = Mode.VLLM
    world.run(TIGHT.memory_gate_s / 2)
    assert world.phase(VLLM) is Phase.STOPPED
    said = "40.0 GB needed, and what is free is not measured any more: the source is away"
    assert control(world, VLLM).reason == f"waits for memory: {said}"
    world.is_measured = True
    world.settle()
    assert world.phase(VLLM) is Phase.READY


def test_memory_that_is_not_measured_again_ends_in_a_reason() -> None:
    world = serving()
    world.is_measured = False
    world.mode = Mode.VLLM
    world.run(TIGHT.memory_gate_s + 20.0)
    assert world.phase(VLLM) is Phase.FAILED
    assert "not measured any more: the source is away" in control(world, VLLM).reason


def test_memory_that_could_never_be_measured_holds_no_start_back_once_the_other_has_left() -> None:
    world = serving()
    world.is_measured = world.is_measurable = False
    world.mode = Mode.VLLM
    while world.phase(VLLM) is not Phase.STARTING:
        world.run(1.0)
    assert control(world, VLLM).reason == "mode vllm; memory is not measured: the source is away"
    world.settle()
    assert world.phase(VLLM) is Phase.READY


def test_a_start_that_fails_once_is_tried_again() -> None:
    world = serving()
    world.engines[VLLM].failing_starts = 1
    world.mode = Mode.VLLM
    world.settle()
    assert world.phase(VLLM) is Phase.READY
    assert control(world, VLLM).failures == 0


def test_a_start_that_fails_always_is_rolled_back_with_the_last_words_and_not_tried_again_until_asked() -> None:
    world = serving()
    world.engines[VLLM].failing_starts = 99
    world.mode = Mode.VLLM
    world.settle()
    assert world.phase(OLLAMA) is Phase.READY
    assert not control(world, OLLAMA).fenced
    assert world.phase(VLLM) is Phase.FAILED
    assert control(world, VLLM).reason == "ended while it started; Ollama runs in its place until the mode is set again"
    assert control(world, VLLM).said == "it broke"
    world.effects.clear()
    world.run(5000.0, every_s=10.0)
    assert world.effects == []
    world.engines[VLLM].failing_starts = 0
    world.asked = world.now
    world.settle()
    assert world.phase(VLLM) is Phase.READY
    assert world.phase(OLLAMA) is Phase.STOPPED


@pytest.mark.parametrize("mode", [Mode.OLLAMA, Mode.AUTO])
def test_an_ollama_that_does_not_load_is_tried_ever_more_seldom_and_no_vllm_is_started_for_it(mode: Mode) -> None:
    world = serving(VLLM)
    world.engines[OLLAMA].failing_starts = 6
    world.mode = mode
    world.run(600.0)
    assert world.phase(OLLAMA) is Phase.FAILED
    assert control(world, OLLAMA).reason == "ended while it started"
    assert control(world, VLLM).reason.startswith("Not started (")
    world.settle()
    assert world.phase(OLLAMA) is Phase.READY
    assert [engine for _, engine, effect in world.effects if effect is Effect.START] == [OLLAMA] * 7


def test_a_vllm_that_failed_is_stopped_in_another_mode_though_ollama_fails_too() -> None:
    world = serving()
    world.engines[VLLM].failing_starts = world.engines[OLLAMA].failing_starts = 99
    world.mode = Mode.VLLM
    world.run(600.0)
    world.mode = Mode.OLLAMA
    world.run(600.0)
    assert (world.phase(VLLM), control(world, VLLM).failures) == (Phase.STOPPED, 0)


def test_another_mode_forgets_what_failed() -> None:
    world = serving()
    world.engines[VLLM].failing_starts = 2
    world.mode = Mode.VLLM
    world.settle()
    world.mode = Mode.OLLAMA
    world.settle()
    assert control(world, VLLM).failures == 0
    world.mode = Mode.VLLM
    world.settle()
    assert world.phase(VLLM) is Phase.READY


def test_two_engines_that_never_start_are_tried_in_turn_ever_more_seldom() -> None:
    world = serving()
    world.mode = Mode.VLLM
    for engine in world.engines.values():
        engine.failing_starts = 999
    world.run(7200.0)
    starts = [at for at, _, effect in world.effects if effect is Effect.START]
    assert {engine for _, engine, effect in world.effects if effect is Effect.START} == {VLLM, OLLAMA}
    assert len(starts) < 40
    assert sum(at > world.now - 1800.0 for at in starts) <= 8


def test_a_start_that_is_refused_says_so() -> None:
    world = serving()
    world.engines[VLLM].is_refused = True
    world.mode = Mode.VLLM
    world.settle()
    assert control(world, VLLM).reason.startswith("nobody listens there")
    assert world.phase(OLLAMA) is Phase.READY


def test_an_engine_that_is_not_ready_in_time_is_released_before_the_other_comes_back() -> None:
    world = serving()
    world.engines[VLLM].is_unproven = True
    world.mode = Mode.VLLM
    world.settle(within_s=6000.0)
    assert world.phase(OLLAMA) is Phase.READY
    assert world.engines[VLLM].presence is Presence.ABSENT
    assert "not ready within AEGIS_START_TIMEOUT_S=900" in control(world, VLLM).reason


@pytest.mark.parametrize("drain_then", DrainThen)
def test_a_call_that_hangs_goes_back_to_waiting_or_is_waited_for_as_the_setting_says(drain_then: DrainThen) -> None:
    world = serving(rules=replace(TIGHT, drain_then=drain_then))
    world.call(OLLAMA, 500.0)
    world.mode = Mode.VLLM
    world.run(TIGHT.drain_s + 20.0)
    is_closed = drain_then is DrainThen.CLOSE
    assert (world.phase(OLLAMA) is Phase.DRAINING) is not is_closed
    assert ("however long they take (AEGIS_DRAIN_THEN: wait; mode vllm)" in control(world, OLLAMA).reason) is not is_closed
    world.settle()
    assert world.phase(VLLM) is Phase.READY


def test_a_call_that_no_worker_closes_does_not_hold_a_switch_up_for_ever() -> None:
    world = serving()
    world.hang = True
    world.call(OLLAMA, NEVER)
    world.mode = Mode.VLLM
    world.run(TIGHT.drain_s + TIGHT.close_s + 60.0)
    assert world.phase(VLLM) is Phase.READY


def test_an_engine_that_somebody_else_keeps_loaded_is_said_to_be_so_and_serves_again() -> None:
    world = serving()
    world.engines[OLLAMA].is_kept_loaded = True
    world.mode = Mode.VLLM
    world.run(TIGHT.release_s)
    told = [effect for _, engine, effect in world.effects if engine is OLLAMA]
    assert told.count(Effect.RELEASE) > 5
    world.settle()
    assert world.phase(OLLAMA) is Phase.READY
    assert "Ollama holds the memory: it did not give its memory back within 60 s" in control(world, VLLM).reason
    assert "somebody keeps it loaded" in control(world, VLLM).reason


def test_an_engine_that_should_not_run_and_is_loaded_by_somebody_else_is_released_again() -> None:
    world = serving(VLLM)
    world.engines[OLLAMA].presence = Presence.PRESENT
    world.settle()
    assert world.engines[OLLAMA].presence is Presence.ABSENT
    assert world.phase(VLLM) is Phase.READY


def test_a_mode_that_is_taken_back_while_calls_drain_lets_the_engine_serve_on() -> None:
    world = serving()
    world.call(OLLAMA, 60.0)
    world.mode = Mode.VLLM
    world.run(20.0)
    assert world.phase(OLLAMA) is Phase.DRAINING
    world.mode = Mode.OLLAMA
    world.step()
    assert world.phase(OLLAMA) is Phase.READY
    assert not control(world, OLLAMA).fenced
    assert world.effects == []


def test_a_mode_that_is_taken_back_during_a_start_releases_what_was_started_first() -> None:
    world = serving()
    world.mode = Mode.VLLM
    world.run(20.0)
    assert world.phase(VLLM) is Phase.STARTING
    world.mode = Mode.OLLAMA
    world.settle()
    assert world.phase(OLLAMA) is Phase.READY
    assert world.engines[VLLM].presence is Presence.ABSENT


def test_an_engine_that_is_wanted_again_before_it_is_gone_is_not_said_to_be_off_when_it_is() -> None:
    world = serving()
    world.mode = Mode.VLLM
    world.step()
    world.step()
    assert world.phase(OLLAMA) is Phase.STOPPING
    world.mode = Mode.OLLAMA
    reasons = []
    for _ in range(60):
        world.step()
        reasons.append(control(world, OLLAMA).reason)
        world.tick(0.2)
    assert "mode ollama" in reasons
    assert not [reason for reason in reasons if reason.startswith("Not started")]


def test_an_engine_that_was_ready_a_moment_ago_is_not_drained_at_once() -> None:
    world = World(rules=TIGHT, mode=Mode.OLLAMA)
    while world.phase(OLLAMA) is not Phase.READY:
        world.step()
        world.tick(1.0)
    world.mode = Mode.VLLM
    world.run(TIGHT.min_dwell_s - 2.0)
    assert world.phase(OLLAMA) is Phase.READY
    assert control(world, OLLAMA).reason == "ready for 10 s at least, then it leaves (mode vllm)"
    world.run(5.0)
    assert world.phase(OLLAMA) is not Phase.READY


def test_an_engine_that_vanishes_is_started_again() -> None:
    world = serving()
    world.engines[OLLAMA].crash(world.now)
    world.step()
    assert control(world, OLLAMA).fenced
    world.settle()
    assert world.phase(OLLAMA) is Phase.READY


def test_a_model_that_was_unloaded_is_loaded_again_at_once_and_no_failure_is_counted() -> None:
    world = serving()
    for _ in range(4):
        world.engines[OLLAMA].end(world.now)
        world.tick(2.0)
        world.step()
        assert (world.phase(OLLAMA), control(world, OLLAMA).failures) == (Phase.STARTING, 0)
        while world.phase(OLLAMA) is not Phase.READY:
            world.step()
            world.tick(1.0)
            assert world.phase(OLLAMA) is not Phase.FAILED
    assert [effect for _, _, effect in world.effects].count(Effect.START) == 4


def test_a_model_that_is_unloaded_before_it_proves_itself_is_loaded_again_until_the_time_is_over() -> None:
    world = World(rules=TIGHT, mode=Mode.OLLAMA)
    began = world.now
    while world.phase(OLLAMA) is not Phase.FAILED:
        world.step()
        if world.phase(OLLAMA) is Phase.WARMING:
            world.engines[OLLAMA].end(world.now)
            world.engines[OLLAMA].holds_until = world.now
        world.tick(1.0)
        assert world.now < began + 1000.0
    assert world.now > began + TIGHT.start_timeout_s
    assert control(world, OLLAMA).failures == 1


def test_an_engine_that_ends_again_and_again_soon_after_its_start_has_failed() -> None:
    world = serving()
    world.mode = Mode.VLLM
    for _ in range(400):
        world.run(1.0)
        if world.phase(VLLM) is Phase.READY:
            world.engines[VLLM].crash(world.now)
    assert world.phase(VLLM) is Phase.FAILED
    assert world.phase(OLLAMA) is Phase.READY


def test_an_engine_that_does_not_answer_for_a_moment_serves_on_and_for_a_minute_is_started_anew() -> None:
    world = serving()
    one = world.engines[OLLAMA]
    one.presence = Presence.COMING
    world.run(30.0)
    assert world.phase(OLLAMA) is Phase.READY
    one.presence = Presence.PRESENT
    world.run(2.0)
    assert control(world, OLLAMA).began is None
    one.presence = Presence.COMING
    world.run(70.0)
    assert world.phase(OLLAMA) is Phase.STARTING
    world.run(1200.0)
    assert world.phase(OLLAMA) is Phase.READY


@pytest.mark.parametrize("mode", Mode)
def test_a_wiped_redis_is_written_anew_from_what_is_there(mode: Mode) -> None:
    world = serving()
    world.mode = mode
    world.settle()
    before = {engine: world.phase(engine) for engine in Engine}
    world.records.clear()
    world.effects.clear()
    world.step()
    assert [effect for _, _, effect in world.effects if effect is Effect.START] == []
    world.settle()
    assert {engine: world.phase(engine) for engine in Engine} == before
    assert Effect.RELEASE not in [effect for _, _, effect in world.effects]


def test_an_engine_that_somebody_else_runs_is_fenced_and_drained_and_neither_started_nor_stopped() -> None:
    world = World(rules=TIGHT, mode=Mode.OLLAMA)
    ollama = world.engines[OLLAMA]
    ollama.can_start, ollama.presence = False, Presence.PRESENT
    world.total_gb = 70.0
    world.settle()
    assert world.phase(OLLAMA) is Phase.READY
    world.mode = Mode.VLLM
    world.settle()
    assert control(world, OLLAMA).fenced
    assert world.phase(VLLM) is Phase.READY
    world.mode = Mode.OLLAMA
    world.settle()
    assert not control(world, OLLAMA).fenced
    assert world.phase(VLLM) is Phase.STOPPED
    assert {engine for _, engine, _ in world.effects} == {VLLM}


def test_an_engine_that_somebody_else_runs_gets_no_call_before_the_other_has_left() -> None:
    world = World(rules=TIGHT, mode=Mode.VLLM)
    ollama = world.engines[OLLAMA]
    ollama.can_start = False
    world.settle()
    ollama.presence, world.mode = Presence.PRESENT, Mode.OLLAMA
    world.call(VLLM, 30.0)
    world.run(20.0)
    assert world.phase(VLLM) is Phase.DRAINING
    assert control(world, OLLAMA).fenced
    world.settle()
    assert not control(world, OLLAMA).fenced


def test_calls_of_an_engine_that_was_found_while_it_started_end_before_it_is_released() -> None:
    world = World(rules=TIGHT, mode=Mode.OLLAMA)
    world.call(OLLAMA, 60.0)  # it loads for it, before any controller is there
    world.run(5.0)
    assert world.phase(OLLAMA) is Phase.STARTING
    world.mode = Mode.VLLM
    world.run(5.0)
    assert world.phase(OLLAMA) is Phase.DRAINING
    world.settle()
    assert world.phase(VLLM) is Phase.READY


def test_engines_that_others_run_are_followed_and_never_fenced() -> None:
    world = World(rules=TIGHT, mode=Mode.VLLM)
    for engine in world.engines.values():
        engine.can_start = False
    world.engines[VLLM].presence = Presence.PRESENT
    world.settle()
    assert (world.phase(VLLM), world.phase(OLLAMA)) == (Phase.READY, Phase.STOPPED)
    assert not any(one.fenced for one in world.records.values())
    assert world.effects == []


def test_an_engine_that_may_load_when_work_falls_back_to_it_is_not_fenced() -> None:
    world = serving(VLLM, ROOMY)
    assert not control(world, OLLAMA).fenced
    world.call(OLLAMA, 100.0)
    world.settle()
    assert world.phase(OLLAMA) is Phase.READY
    assert world.effects == []


def test_an_engine_that_is_not_configured_any_more_is_not_left_fenced() -> None:
    world = serving()
    snapshot = world.snapshot()
    vllm = replace(snapshot.engines[VLLM], configured=False)
    step = plan(replace(snapshot, engines={**snapshot.engines, VLLM: vllm}))[VLLM]
    assert not step.after.fenced
    assert step.after.reason == "not configured"


def test_what_an_engine_wrote_is_kept_while_it_is_failed_and_is_in_no_reason() -> None:
    world = serving()
    world.engines[VLLM].failing_starts = 2
    world.mode = Mode.VLLM
    said: dict[Phase, set[str]] = {}
    for _ in range(200):
        for engine, step, _ in world.acts():
            assert "it broke" not in step.after.reason
            if engine is VLLM:
                said.setdefault(step.after.phase, set()).add(step.after.said)
        world.tick(1.0)
    assert said.pop(Phase.FAILED) == {"it broke"}
    assert set.union(*said.values()) == {""}
