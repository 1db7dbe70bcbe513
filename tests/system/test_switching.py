"""Switches of the engine mode, while calls are in flight."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from installation import Installation, eventually, installed
from memory_host import SIZES_GB, engine_host

from aegis_workers.local import environment, process
from aegis_workers.routing import Engine
from aegis_workers.state import keys

SLOW = ("--call-seconds", "1")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Installation]:
    with installed(tmp_path, "chat", "extraction", vllm=SLOW, ollama=SLOW, llm_engine_mode="vllm") as place:
        yield place


def test_a_call_in_flight_ends_on_its_engine_and_the_next_goes_where_a_plain_set_says(place: Installation) -> None:
    in_flight = [place.chat() for _ in range(5)]
    eventually(lambda: place.in_flight(Engine.VLLM) == 5)

    assert place.redis_cli("SET", keys.MODE, "ollama") == "OK\n"
    after = [place.chat() for _ in range(2)]

    assert {result.get(timeout=20)["engine"] for result in after} == {"ollama"}
    assert {result.get(timeout=20)["engine"] for result in in_flight} == {"vllm"}
    assert {result.get(timeout=20)["mode"] for result in in_flight} == {"vllm"}
    assert place.stats(Engine.VLLM)["aborted"] == 0


def test_every_way_to_switch_is_seen_by_running_workers(place: Installation) -> None:
    def command_line(mode: str) -> None:
        command = [sys.executable, "-m", "aegis_workers.cli", "mode", "set", mode]
        subprocess.run(command, env=environment.of(place.settings), check=True, cwd=place.logs, capture_output=True)

    def redis_cli(mode: str) -> None:
        assert place.redis_cli("SET", keys.MODE, f" {mode.upper()} ") == "OK\n"

    def admin_task(mode: str) -> None:
        assert place.send("aegis.set_engine_mode", mode=mode).get(timeout=20)["mode"] == mode

    place.start_workers("control")
    for switch in (command_line, redis_cli, admin_task):
        for mode in ("ollama", "vllm"):
            switch(mode)
            assert place.chat().get(timeout=20)["mode"] == mode


def test_an_unknown_mode_leaves_the_last_valid_one_in_force_for_all_who_ask(place: Installation) -> None:
    place.redis.set(keys.MODE, "ollama")
    assert place.chat().get(timeout=20)["engine"] == "ollama"

    place.redis.set(keys.MODE, "gpt")
    assert place.chat().get(timeout=20)["engine"] == "ollama"
    assert place.cli("mode", "get").stdout == "ollama\n"
    assert place.python("import aegis_workers; print(aegis_workers.get_mode())").stdout == "ollama\n"

    place.redis.delete(keys.MODE)
    place.redis.rpush(keys.MODE, "vllm")
    place.start_workers("control")
    assert place.chat().get(timeout=20)["mode"] == "ollama"
    assert place.send("aegis.get_engine_mode").get(timeout=20)["mode"] == "ollama"


def test_a_worker_that_starts_while_the_mode_is_unknown_follows_the_others(place: Installation) -> None:
    place.redis.set(keys.MODE, "ollama")
    assert place.chat().get(timeout=20)["engine"] == "ollama"
    place.redis.set(keys.MODE, "gpt")
    process.stop(place.workers, 10)
    place.start_workers("chat")
    assert place.chat().get(timeout=20)["engine"] == "ollama"


@pytest.mark.timeout(120)
def test_with_room_for_both_a_chat_runs_on_ollama_while_vllm_starts(tmp_path: Path) -> None:
    room = sum(SIZES_GB.values())
    with engine_host(tmp_path, queues=("chat",), vllm=("--start-seconds", "600"), total_gb=room, start_timeout_s=600) as host:
        host.lead()
        host.await_settled(Engine.OLLAMA)
        host.write_mode("vllm")
        host.await_phase(Engine.VLLM, "starting")
        outcome = host.place.chat().get(timeout=20)
        assert (outcome["engine"], outcome["mode"]) == ("ollama", "vllm")
        assert "starting" in outcome["reason"]
        assert host.control(Engine.VLLM)["phase"] == "starting"
        host.write_mode("ollama")
        host.await_phase(Engine.VLLM, "stopped")
