"""What a mode means for the engines, by what Redis says of them: a table."""

from dataclasses import replace

import pytest

from aegis_workers.controller import outlook
from aegis_workers.controller.outlook import Act
from aegis_workers.controller.snapshot import Snapshot
from aegis_workers.engines.base import Readiness
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.state.engine_control import Control, Phase
from aegis_workers.state.engine_status import UNKNOWN, EngineStatus, ReplicaStatus
from aegis_workers.state.memory import Memory

VLLM, OLLAMA = Engine.VLLM, Engine.OLLAMA
NOW = 1_800_000_000.0
SETTINGS = Settings(_env_file=None, vllm_model="m", ollama_model="m", memory_budget_gb=60.0)
ROOMY = SETTINGS.model_copy(update={"memory_budget_gb": 128.0})
READY = Control(phase=Phase.READY, since=NOW - 60, driver="process")
STOPPED = Control(phase=Phase.STOPPED, since=NOW - 60, fenced=True, driver="process")


def led(control: Control, asked_at: float | None = None) -> EngineStatus:
    return replace(UNKNOWN, control=control, fenced=control.fenced, asked_at=asked_at)


def probed(*, loaded: bool) -> EngineStatus:
    replica = ReplicaStatus(url="http://a:1", state=Readiness.READY, loaded=loaded)
    return EngineStatus(state=Readiness.READY, reason="", replicas=(replica,))


def view(mode: Mode, vllm: EngineStatus, ollama: EngineStatus, settings: Settings = SETTINGS, *, queued: int = 0) -> Snapshot:
    return outlook.view(settings, mode, {VLLM: vllm, OLLAMA: ollama}, None, now=NOW, queued=queued)


@pytest.mark.parametrize(
    ("mode", "vllm", "ollama", "settings", "expected"),
    [
        (Mode.VLLM, led(STOPPED), led(READY), SETTINGS, (Act.START, Act.STOP)),
        (Mode.VLLM, led(STOPPED), led(READY), ROOMY, (Act.START, Act.LEAVE)),
        (Mode.OLLAMA, led(READY), led(STOPPED), SETTINGS, (Act.STOP, Act.START)),
        (Mode.OLLAMA, led(STOPPED), led(READY), SETTINGS, (Act.NOTHING, Act.KEEP)),
        (Mode.AUTO, led(READY), led(STOPPED), SETTINGS, (Act.STOP, Act.START)),
        (Mode.AUTO, led(READY), led(STOPPED), ROOMY, (Act.KEEP, Act.START)),
        (Mode.OLLAMA, led(READY), led(replace(READY, driver="external")), SETTINGS, (Act.STOP, Act.KEEP)),
        (Mode.VLLM, led(READY), led(replace(READY, driver="external")), SETTINGS, (Act.KEEP, Act.FENCE)),
        (Mode.VLLM, UNKNOWN, probed(loaded=True), SETTINGS, (Act.AWAIT, Act.LEAVE)),
        (Mode.OLLAMA, probed(loaded=True), probed(loaded=False), SETTINGS, (Act.LEAVE, Act.AWAIT)),
    ],
)
def test_what_would_be_done_to_each_engine(
    mode: Mode, vllm: EngineStatus, ollama: EngineStatus, settings: Settings, expected: tuple[Act, Act]
) -> None:
    found = outlook.prospects(view(mode, vllm, ollama, settings))
    assert (found[VLLM].act, found[OLLAMA].act) == expected


@pytest.mark.parametrize(
    ("vllm", "ollama", "expected"),
    [
        (READY, STOPPED, []),
        (replace(READY, fenced=True), STOPPED, [VLLM]),
        (replace(READY, phase=Phase.WARMING), STOPPED, [VLLM]),
        (STOPPED, replace(READY, phase=Phase.DRAINING, fenced=True), [VLLM, OLLAMA]),
        (READY, replace(READY, phase=Phase.STOPPING, fenced=True), [OLLAMA]),
        (READY, replace(READY, fenced=True, driver="external"), []),
        (READY, replace(READY, driver="external"), [OLLAMA]),
    ],
)
def test_an_engine_has_followed_mode_vllm_when_it_is_ready_or_gone(
    vllm: Control, ollama: Control, expected: list[Engine]
) -> None:
    assert list(outlook.awaited(view(Mode.VLLM, led(vllm), led(ollama)))) == expected


def test_an_engine_of_which_the_controller_has_said_nothing_is_awaited() -> None:
    assert list(outlook.awaited(view(Mode.VLLM, UNKNOWN, led(STOPPED)))) == [VLLM]


@pytest.mark.parametrize("settings", [SETTINGS, ROOMY])
def test_an_engine_failed_when_its_tries_are_over_unless_it_was_asked_for_anew(settings: Settings) -> None:
    once = replace(STOPPED, phase=Phase.FAILED, failures=1)
    given_up = replace(once, failures=2)
    other = led(STOPPED)
    assert list(outlook.failed(view(Mode.VLLM, led(once), other, settings))) == []
    assert list(outlook.failed(view(Mode.VLLM, led(given_up), other, settings))) == [VLLM]
    assert list(outlook.failed(view(Mode.VLLM, led(given_up, asked_at=NOW - 90), other, settings))) == [VLLM]
    assert list(outlook.failed(view(Mode.VLLM, led(given_up, asked_at=NOW), other, settings))) == []


ON_DEMAND = SETTINGS.model_copy(update={"vllm_on_demand": True})


def test_an_engine_on_demand_is_awaited_only_while_there_is_work_for_it() -> None:
    idle = led(Control(phase=Phase.STOPPED, since=NOW, fenced=True, driver="process", origin="AEGIS_VLLM_ON_DEMAND"))
    starting = led(Control(phase=Phase.STARTING, since=NOW, fenced=True, driver="process", origin="mode vllm"))
    assert list(outlook.awaited(view(Mode.VLLM, idle, led(STOPPED), ON_DEMAND))) == []
    assert list(outlook.awaited(view(Mode.VLLM, idle, led(STOPPED), ON_DEMAND, queued=1))) == [VLLM]
    assert list(outlook.awaited(view(Mode.VLLM, starting, led(STOPPED), ON_DEMAND))) == [VLLM]


def test_the_room_that_the_leader_found_holds_whatever_the_settings_here_say() -> None:
    found = Memory(free_gb=60.0, total_gb=128.0, source="meminfo", room_for_both=True, why="both fit")
    statuses = {VLLM: led(READY), OLLAMA: led(STOPPED)}
    here = outlook.view(SETTINGS, Mode.AUTO, statuses, found, now=NOW, queued=0)
    assert {engine: one.act for engine, one in outlook.prospects(here).items()} == {VLLM: Act.KEEP, OLLAMA: Act.START}
