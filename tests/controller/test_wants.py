"""Which engines should run: the table of the design."""

from dataclasses import replace

import pytest
from engine_world import SIZES

from aegis_workers.controller import wants
from aegis_workers.controller.driver import Observation, Presence
from aegis_workers.controller.snapshot import EngineFacts, Memory, Rules, Snapshot, Work
from aegis_workers.controller.wants import Choice
from aegis_workers.routing import Engine, Mode
from aegis_workers.state.engine_control import Control, Phase

RUN, OFF, LEAVE = Choice.RUN, Choice.OFF, Choice.LEAVE
ROOM, NO_ROOM = 64.0, 63.9


def engine(name: Engine, *, can_start: bool = True, configured: bool = True, control: Control | None = None) -> EngineFacts:
    return EngineFacts(
        engine=name,
        configured=configured,
        driver="fake",
        can_start=can_start,
        seen=Observation(presence=Presence.ABSENT),
        control=control,
    )


def snapshot(
    mode: Mode = Mode.AUTO, budget_gb: float | None = NO_ROOM, *engines: EngineFacts, total_gb: float | None = None
) -> Snapshot:
    found = {facts.engine: facts for facts in engines}
    return Snapshot(
        now=1000.0,
        mode=mode,
        origin=f"mode {mode}",
        engines={name: found.get(name, engine(name)) for name in Engine},
        memory=Memory(total_gb=total_gb, source="meminfo"),
        rules=Rules(sizes_gb=SIZES, budget_gb=budget_gb),
    )


def choices(taken: Snapshot) -> tuple[Choice, Choice]:
    """What becomes of vLLM and of Ollama."""
    wanted = wants.decide(taken)
    return wanted[Engine.VLLM].choice, wanted[Engine.OLLAMA].choice


EXTERNAL_VLLM, EXTERNAL_OLLAMA = engine(Engine.VLLM, can_start=False), engine(Engine.OLLAMA, can_start=False)
NO_VLLM, NO_OLLAMA = engine(Engine.VLLM, configured=False), engine(Engine.OLLAMA, configured=False)


@pytest.mark.parametrize(
    ("mode", "budget_gb", "engines", "expected"),
    [
        (Mode.VLLM, ROOM, [], (RUN, LEAVE)),
        (Mode.OLLAMA, ROOM, [], (OFF, RUN)),
        (Mode.AUTO, ROOM, [], (RUN, RUN)),
        (Mode.VLLM, NO_ROOM, [], (RUN, OFF)),
        (Mode.OLLAMA, NO_ROOM, [], (OFF, RUN)),
        (Mode.AUTO, NO_ROOM, [], (OFF, RUN)),
        # Somebody else runs one: it is fenced where the other needs its room, and else left alone.
        (Mode.VLLM, NO_ROOM, [EXTERNAL_OLLAMA], (RUN, OFF)),
        (Mode.OLLAMA, NO_ROOM, [EXTERNAL_OLLAMA], (OFF, RUN)),
        (Mode.OLLAMA, ROOM, [EXTERNAL_VLLM], (LEAVE, RUN)),
        (Mode.OLLAMA, NO_ROOM, [EXTERNAL_VLLM], (OFF, RUN)),
        # Nobody here can hand memory over.
        (Mode.VLLM, NO_ROOM, [EXTERNAL_VLLM, EXTERNAL_OLLAMA], (RUN, LEAVE)),
        (Mode.OLLAMA, NO_ROOM, [EXTERNAL_VLLM, EXTERNAL_OLLAMA], (LEAVE, RUN)),
        (Mode.AUTO, NO_ROOM, [EXTERNAL_VLLM, EXTERNAL_OLLAMA], (RUN, RUN)),
        # One engine alone is in nobody's way.
        (Mode.AUTO, NO_ROOM, [NO_OLLAMA], (RUN, OFF)),
        (Mode.AUTO, NO_ROOM, [NO_VLLM], (OFF, RUN)),
        (Mode.VLLM, NO_ROOM, [NO_VLLM], (OFF, LEAVE)),
        (Mode.OLLAMA, NO_ROOM, [NO_OLLAMA], (OFF, OFF)),
    ],
)
def test_the_table_says_what_becomes_of_each_engine(
    mode: Mode, budget_gb: float, engines: list[EngineFacts], expected: tuple[Choice, Choice]
) -> None:
    assert choices(snapshot(mode, budget_gb, *engines)) == expected


@pytest.mark.parametrize(
    ("budget_gb", "total_gb", "both"),
    [(ROOM, None, True), (NO_ROOM, 1000.0, False), (None, 64.0, True), (None, 63.0, False), (None, None, False)],
)
def test_room_is_the_budget_or_else_what_was_measured(budget_gb: float | None, total_gb: float | None, both: bool) -> None:  # noqa: FBT001 - a row of the table
    found = wants.room(snapshot(Mode.AUTO, budget_gb, total_gb=total_gb))
    assert found.both is both
    assert "64.0 GB" in found.why


def test_auto_without_room_says_with_numbers_why_vllm_does_not_run() -> None:
    reason = wants.decide(snapshot())[Engine.VLLM].reason
    assert reason == "no room for vLLM: both together need 64.0 GB, AEGIS_MEMORY_BUDGET_GB is 63.9"


def test_a_mode_that_the_profile_chose_is_said_to_come_from_it() -> None:
    taken = replace(snapshot(Mode.OLLAMA), origin="PROFILE=chat_only")
    want = wants.decide(taken)[Engine.VLLM]
    assert (want.reason, want.origin) == ("config: PROFILE=chat_only", "PROFILE=chat_only")


def on_demand(mode: Mode, budget_gb: float, *, work: Work, phase: Phase = Phase.STOPPED) -> Snapshot:
    taken = snapshot(mode, budget_gb, engine(Engine.VLLM, control=Control(phase=phase, since=0.0)))
    return replace(taken, rules=replace(taken.rules, on_demand=True, idle_s=600.0), work=work)


BUSY, JUST_IDLE, IDLE = Work(is_there=True), Work(idle_s=599.0), Work(idle_s=600.0)


@pytest.mark.parametrize(
    ("mode", "budget_gb", "work", "phase", "expected"),
    [
        (Mode.VLLM, NO_ROOM, BUSY, Phase.STOPPED, (RUN, OFF)),
        (Mode.VLLM, NO_ROOM, JUST_IDLE, Phase.STOPPED, (OFF, OFF)),
        (Mode.VLLM, NO_ROOM, JUST_IDLE, Phase.READY, (RUN, OFF)),
        (Mode.VLLM, NO_ROOM, JUST_IDLE, Phase.WARMING, (RUN, OFF)),
        (Mode.VLLM, NO_ROOM, IDLE, Phase.READY, (OFF, OFF)),
        (Mode.AUTO, NO_ROOM, BUSY, Phase.STOPPED, (OFF, RUN)),
        (Mode.OLLAMA, ROOM, BUSY, Phase.STOPPED, (OFF, RUN)),
        (Mode.AUTO, ROOM, BUSY, Phase.STOPPED, (RUN, RUN)),
        (Mode.AUTO, ROOM, IDLE, Phase.READY, (OFF, RUN)),
    ],
)
def test_on_demand_vllm_runs_while_work_is_there_and_never_against_the_mode(
    mode: Mode, budget_gb: float, work: Work, phase: Phase, expected: tuple[Choice, Choice]
) -> None:
    assert choices(on_demand(mode, budget_gb, work=work, phase=phase)) == expected


def test_an_engine_that_is_not_there_on_demand_says_what_chose_that() -> None:
    taken = on_demand(Mode.VLLM, NO_ROOM, work=IDLE)
    taken = replace(taken, rules=replace(taken.rules, on_demand_by="PROFILE=engineering"))
    assert wants.decide(taken)[Engine.VLLM].reason == "on demand, by PROFILE=engineering: no extraction work"


def test_on_demand_does_nothing_about_a_vllm_that_somebody_else_runs() -> None:
    taken = on_demand(Mode.VLLM, ROOM, work=IDLE)
    assert choices(replace(taken, engines=taken.engines | {Engine.VLLM: EXTERNAL_VLLM})) == (RUN, LEAVE)  # type: ignore[operator]


def failed(name: Engine, times: int) -> EngineFacts:
    return engine(name, control=Control(phase=Phase.FAILED, since=900.0, failures=times))


@pytest.mark.parametrize(
    ("vllm", "ollama", "expected"),
    [(1, 0, (RUN, OFF)), (2, 0, (OFF, RUN)), (2, 1, (OFF, RUN)), (2, 2, (RUN, OFF)), (3, 2, (OFF, RUN)), (0, 2, (RUN, OFF))],
)
def test_of_two_engines_that_fail_the_one_that_did_so_less_often_runs(
    vllm: int, ollama: int, expected: tuple[Choice, Choice]
) -> None:
    assert choices(snapshot(Mode.VLLM, NO_ROOM, failed(Engine.VLLM, vllm), failed(Engine.OLLAMA, ollama))) == expected


@pytest.mark.parametrize("mode", [Mode.OLLAMA, Mode.AUTO])
@pytest.mark.parametrize(("vllm", "ollama"), [(0, 2), (0, 9), (1, 2), (2, 0), (2, 2)])
def test_no_vllm_stands_in_for_an_ollama_that_fails(mode: Mode, vllm: int, ollama: int) -> None:
    taken = snapshot(mode, NO_ROOM, failed(Engine.VLLM, vllm), failed(Engine.OLLAMA, ollama))
    assert choices(taken) == (OFF, RUN)
    assert not any(want.gave_up for want in wants.decide(taken).values())


def test_an_engine_that_gave_up_is_wanted_again_when_an_operator_asks() -> None:
    asked = replace(failed(Engine.VLLM, 2), asked=901.0)
    assert choices(snapshot(Mode.VLLM, NO_ROOM, asked)) == (RUN, OFF)
    assert choices(snapshot(Mode.VLLM, NO_ROOM, replace(asked, asked=899.0))) == (OFF, RUN)
