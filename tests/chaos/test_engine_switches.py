"""Faults in the midst of a switch between engines that exclude each other: no call is lost or doubled, and none wedges."""

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import switch_calls
from installation import eventually
from memory_host import SIZES_GB, TOTAL_GB, EngineHost, engine_host
from switch_calls import Calls

from aegis_workers.routing import Engine

pytestmark = pytest.mark.timeout(120)

VLLM, OLLAMA = Engine.VLLM, Engine.OLLAMA

# Slow enough to be met in every phase.
SLOW_VLLM = ("--start-seconds", "1.5")
SLOW_OLLAMA = ("--memory-return-s", "1.5")
# After which a frozen controller has long lost its lock.
FROZEN_S = 12.0


@contextmanager
def switching(
    folder: Path,
    *,
    controllers: int = 1,
    vllm: tuple[str, ...] = SLOW_VLLM,
    ollama: tuple[str, ...] = SLOW_OLLAMA,
    answered_once: bool = True,
    **settings: Any,
) -> Iterator[tuple[EngineHost, Calls]]:
    """Calls on Ollama, with controllers that lead it; in the end each call has its one answer.

    `answered_once`: no engine was asked for one twice. Where an engine or Redis was killed, an answer may have been lost with it.
    """
    with engine_host(folder, vllm=vllm, ollama=ollama, **settings) as host:
        host.lead(controllers)
        host.await_settled(OLLAMA)
        with switch_calls.calling(host) as calls:
            yield host, calls
            calls.stop()
            found = calls.aftermath()
            assert found.holds if answered_once else found.kept, found


PHASES = [(OLLAMA, "draining"), (OLLAMA, "stopping"), (VLLM, "starting"), (VLLM, "warming")]


@pytest.mark.parametrize(
    ("engine", "phase"),
    [pytest.param(*found, marks=[] if found == (VLLM, "starting") else [pytest.mark.long]) for found in PHASES],
)
def test_the_next_leader_ends_the_switch_of_one_that_was_killed(tmp_path: Path, engine: Engine, phase: str) -> None:
    with switching(tmp_path, controllers=2) as (host, calls):
        first, second = host.controllers
        host.write_mode("vllm")
        host.await_phase(engine, phase)
        host.kill(first)
        eventually(lambda: "controller.leads" in second.log_text(), within_s=20)
        host.await_settled(VLLM)
        assert len(host.engine_pids()) == 1
        calls.await_more()


@pytest.mark.long
def test_the_next_leader_goes_on_waiting_for_memory_where_one_was_killed(tmp_path: Path) -> None:
    with switching(tmp_path, controllers=2, ollama=("--memory-return-s", "100"), memory_gate_s=60.0) as (host, calls):
        first, second = host.controllers
        host.write_mode("vllm")
        eventually(lambda: host.control(VLLM)["reason"].startswith("waits for memory"))
        host.kill(first)
        eventually(lambda: "controller.leads" in second.log_text(), within_s=20)
        assert host.engine_pids() == []
        host.await_settled(VLLM)
        calls.await_more()


@pytest.mark.long
def test_the_next_leader_brings_ollama_back_where_one_was_killed_after_a_failed_start(tmp_path: Path) -> None:
    with switching(tmp_path, controllers=2, vllm=("--crash-at-start", "always")) as (host, calls):
        first, second = host.controllers
        host.write_mode("vllm")
        host.await_phase(VLLM, "failed")
        host.kill(first)
        eventually(lambda: "controller.leads" in second.log_text(), within_s=20)
        host.await_settled(OLLAMA)
        calls.await_more()
        host.write_mode("ollama")


@pytest.mark.long
@pytest.mark.parametrize(("engine", "phase"), [(VLLM, "draining"), (VLLM, "stopping"), (OLLAMA, "starting"), (OLLAMA, "warming")])
def test_the_way_back_is_ended_by_the_next_leader_too(tmp_path: Path, engine: Engine, phase: str) -> None:
    vllm, ollama = (*SLOW_VLLM, "--memory-return-s", "1.5"), (*SLOW_OLLAMA, "--start-seconds", "1.5")
    with switching(tmp_path, controllers=2, vllm=vllm, ollama=ollama) as (host, calls):
        host.write_mode("vllm")
        host.await_settled(VLLM)
        first, second = host.controllers
        host.write_mode("ollama")
        host.await_phase(engine, phase)
        host.kill(first)
        eventually(lambda: "controller.leads" in second.log_text(), within_s=20)
        host.await_settled(OLLAMA)
        assert host.engine_pids() == []
        calls.await_more()


@pytest.mark.long
def test_an_engine_that_crashes_once_while_it_starts_is_started_again(tmp_path: Path) -> None:
    with switching(tmp_path, vllm=("--crash-at-start", "once")) as (host, calls):
        host.write_mode("vllm")
        host.await_settled(VLLM)
        assert host.control(VLLM)["failures"] <= 1
        calls.await_more()


def test_an_engine_that_always_crashes_gives_way_to_the_one_that_worked(tmp_path: Path) -> None:
    with switching(tmp_path, vllm=("--crash-at-start", "always")) as (host, calls):
        host.write_mode("vllm")
        host.await_phase(VLLM, "failed")
        host.await_settled(OLLAMA)
        assert "Engine core initialization failed" in host.control(VLLM)["said"]
        calls.await_more()
        assert host.engine_pids() == []
        host.write_mode("ollama")  # chats wait for vLLM until then, as mode `vllm` has it


@pytest.mark.long
def test_memory_that_never_comes_back_ends_the_switch_with_its_numbers_in_the_reason(tmp_path: Path) -> None:
    with switching(tmp_path, ollama=("--memory-return-s", "3600"), memory_gate_s=3.0) as (host, calls):
        host.write_mode("vllm")
        found = host.await_phase(VLLM, "failed")
        assert f"{SIZES_GB[VLLM]:.1f} GB" in found["reason"]
        assert "GB free" in found["reason"]
        host.await_settled(OLLAMA)
        assert host.engine_pids() == []
        calls.await_more()
        host.write_mode("ollama")


@contextmanager
def foreign_client(url: str) -> Iterator[None]:
    """Another program that keeps a model loaded, whoever unloads it."""
    told = threading.Event()

    def ask() -> None:
        body = json.dumps({"model": "sim", "keep_alive": "5m"}).encode()
        while not told.wait(0.1):
            urllib.request.urlopen(f"{url}/api/generate", data=body, timeout=5).close()  # noqa: S310 - a simulator on loopback

    thread = threading.Thread(target=ask, name="foreign client")
    thread.start()
    try:
        yield
    finally:
        told.set()
        thread.join()


@pytest.mark.long
def test_an_unload_that_a_foreign_client_undoes_is_told_again(tmp_path: Path) -> None:
    with switching(tmp_path) as (host, calls):
        host.write_mode("vllm")
        with foreign_client(host.place.settings.ollama_url[0]):
            host.await_phase(OLLAMA, "stopping")
            before = host.place.stats(OLLAMA)["loads"]
            eventually(lambda: host.place.stats(OLLAMA)["loads"] >= before + 3)
            assert host.engine_pids() == []
            assert host.control(VLLM)["phase"] != "ready"
        host.await_settled(VLLM)
        calls.await_more()


def test_a_call_that_hangs_goes_back_to_waiting_when_the_drain_is_over(tmp_path: Path) -> None:
    with switching(tmp_path, drain_s=3.0) as (host, calls):
        host.place.behave(OLLAMA, hang=True, times=1)
        eventually(lambda: host.place.stats(OLLAMA)["requests"] > 0)
        calls.await_more()
        host.write_mode("vllm")
        host.await_settled(VLLM)
        assert host.place.stats(OLLAMA)["aborted"] == 1
        calls.await_more()


def test_a_call_that_is_slow_is_waited_for_beyond_the_drain_where_the_setting_says_so(tmp_path: Path) -> None:
    with switching(tmp_path, drain_s=1.0, drain_then="wait") as (host, calls):
        host.place.behave(OLLAMA, slow_s=8.0, times=1)
        eventually(lambda: host.place.stats(OLLAMA)["requests"] > 0)
        calls.await_more()
        host.write_mode("vllm")
        eventually(lambda: "however long they take (AEGIS_DRAIN_THEN: wait" in host.control(OLLAMA)["reason"])
        assert host.control(OLLAMA)["phase"] == "draining"
        assert host.engine_pids() == []
        host.await_settled(VLLM)
        assert host.place.stats(OLLAMA)["aborted"] == 0
        calls.await_more()


GATE = (VLLM, "stopped")


@pytest.mark.parametrize(
    ("engine", "phase"),
    [pytest.param(*found, marks=[] if found == (OLLAMA, "stopping") else [pytest.mark.long]) for found in (*PHASES, GATE)],
)
def test_a_switch_goes_on_where_it_was_when_redis_comes_back(tmp_path: Path, engine: Engine, phase: str) -> None:
    ollama = ("--memory-return-s", "4", "--call-seconds", "1")
    with switching(tmp_path, ollama=ollama, answered_once=False) as (host, calls):
        host.write_mode("vllm")
        if (engine, phase) == GATE:
            eventually(lambda: host.control(VLLM)["reason"].startswith("waits for memory"))
        else:
            host.await_phase(engine, phase)
        host.place.restart_redis(away_s=2)
        host.await_settled(VLLM)
        assert len(host.engine_pids()) == 1
        calls.await_more()


@pytest.mark.long
def test_a_drain_that_waits_closes_no_call_when_redis_comes_back(tmp_path: Path) -> None:
    with switching(tmp_path, drain_s=1.0, drain_then="wait", answered_once=False) as (host, calls):
        host.place.behave(OLLAMA, slow_s=15.0, times=1)
        eventually(lambda: host.place.stats(OLLAMA)["requests"] > 0)
        calls.await_more()
        host.write_mode("vllm")
        eventually(lambda: "however long they take" in host.control(OLLAMA)["reason"])
        host.place.restart_redis(away_s=2)
        assert host.control(OLLAMA)["phase"] == "draining"
        assert host.engine_pids() == []
        host.await_settled(VLLM)
        assert host.place.stats(OLLAMA)["aborted"] == 0
        calls.await_more()


@pytest.mark.long
def test_a_leader_that_was_frozen_past_its_lock_changes_nothing(tmp_path: Path) -> None:
    with switching(tmp_path, controllers=2) as (host, calls):
        first, second = host.controllers
        host.write_mode("vllm")
        host.await_phase(OLLAMA, "draining", "stopping")
        with host.frozen(first):
            eventually(lambda: "controller.leads" in second.log_text(), within_s=2 * FROZEN_S)
            host.await_settled(VLLM)
            before = host.control(VLLM), host.control(OLLAMA), host.engine_pids()
        eventually(lambda: "controller.stands_by" in first.log_text())
        calls.await_more()
        assert (host.control(VLLM), host.control(OLLAMA), host.engine_pids()) == before


@pytest.mark.long
@pytest.mark.parametrize(("modes", "engine"), [(("vllm", "ollama", "vllm"), VLLM), (("vllm", "auto", "ollama"), OLLAMA)])
def test_of_modes_that_are_written_within_a_second_the_last_counts(
    tmp_path: Path, modes: tuple[str, ...], engine: Engine
) -> None:
    with switching(tmp_path) as (host, calls):
        for mode in modes:
            host.write_mode(mode)
            time.sleep(0.3)
        host.await_settled(engine)
        calls.await_more()
        host.await_settled(engine)


@pytest.mark.long
def test_an_unknown_mode_leaves_the_engines_as_they_are(tmp_path: Path) -> None:
    with switching(tmp_path) as (host, calls):
        host.write_mode("vllm")
        host.await_settled(VLLM)
        pids = host.engine_pids()
        host.place.redis_cli("SET", "aegis:llm_engine_mode", "gpt")
        calls.await_more()
        host.await_settled(VLLM)
        assert host.engine_pids() == pids


@pytest.mark.long
def test_an_engine_that_is_killed_while_it_serves_is_started_again(tmp_path: Path) -> None:
    with switching(tmp_path, answered_once=False) as (host, calls):
        host.write_mode("vllm")
        host.await_settled(VLLM)
        (pid,) = host.engine_pids()
        os.kill(pid, signal.SIGKILL)
        host.await_phase(VLLM, "starting", "failed")
        host.await_settled(VLLM)
        assert host.engine_pids() != [pid]
        calls.await_more()


@pytest.mark.long
def test_with_room_for_both_the_leaving_engine_serves_until_the_other_is_ready(tmp_path: Path) -> None:
    room = sum(SIZES_GB.values())
    with switching(tmp_path, total_gb=room, memory_budget_gb=room) as (host, calls):
        host.write_mode("vllm")
        while host.control(VLLM).get("phase") != "ready":
            assert not host.is_fenced(OLLAMA)
        host.await_phase(VLLM, "ready")
        assert not host.is_fenced(OLLAMA)
        calls.await_more()


@pytest.mark.long
def test_a_switch_waits_for_memory_that_another_program_has(tmp_path: Path) -> None:
    with switching(tmp_path, memory_gate_s=60.0) as (host, calls):
        occupied = host.occupy(TOTAL_GB - SIZES_GB[OLLAMA])
        host.write_mode("vllm")
        eventually(lambda: "GB free" in host.control(VLLM).get("reason", ""))
        assert host.engine_pids() == []
        host.free(occupied)
        host.await_settled(VLLM)
        calls.await_more()
