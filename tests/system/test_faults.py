"""Engines that die and a Redis that goes away, under calls."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from installation import Installation, eventually, installed

from aegis_workers.local import environment
from aegis_workers.routing import Engine


def engines(place: Installation) -> dict[str, Any]:
    command = [sys.executable, "-m", "aegis_workers.cli", "engines", "--json"]
    shown = subprocess.run(command, env=environment.of(place.settings), capture_output=True, check=True, cwd=place.logs)
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


def test_calls_in_flight_at_an_engine_that_dies_end_on_the_other_without_a_spent_attempt(tmp_path: Path) -> None:
    with installed(tmp_path, "extraction", llm_engine_mode="vllm") as place:
        place.behave(Engine.VLLM, slow_s=60)
        results = [place.send("aegis.extract", text=f"Ada Stone met Bo Hill in town {n}.") for n in range(20)]
        eventually(lambda: place.in_flight(Engine.VLLM) == 20)

        place.simulators[Engine.VLLM].popen.kill()

        outcomes = [result.get(timeout=20) for result in results]
        assert {outcome["engine"] for outcome in outcomes} == {"ollama"}
        assert {outcome["attempts"] for outcome in outcomes} == {1}
        assert "fell back to Ollama" in outcomes[0]["calls"][0]["reason"]


def test_an_engine_that_breaks_its_calls_off_is_left_alone_before_a_probe_finds_out(tmp_path: Path) -> None:
    """A call that was sent to it would hang."""
    settings: dict[str, Any] = {"llm_engine_mode": "vllm", "probe_interval_s": 600}
    with installed(tmp_path, "extraction", vllm=("--dev-mode",), **settings) as place:
        place.behave(Engine.VLLM, slow_s=60)
        in_flight = [place.send("aegis.extract", text=f"Ada Stone met Bo Hill in town {n}.") for n in range(5)]
        eventually(lambda: place.in_flight(Engine.VLLM) == 5)
        asked = place.stats(Engine.VLLM)["requests"]

        place.tell(Engine.VLLM, "/pause")
        outcomes = [result.get(timeout=20) for result in in_flight]

        assert {(outcome["engine"], outcome["attempts"]) for outcome in outcomes} == {("ollama", 1)}
        told = engines(place)["engines"]["vllm"]
        assert (told["state"], "finish reason abort" in told["reason"]) == ("unavailable", True)
        assert place.stats(Engine.VLLM)["requests"] == asked


def test_an_engine_that_drains_is_left_alone_until_it_completes_a_token_again(tmp_path: Path) -> None:
    """Its health check says nothing of it: a call finds out, and a probe is believed once it has proved the contrary."""
    with installed(tmp_path, "extraction", llm_engine_mode="vllm") as place:
        place.behave(Engine.VLLM, error_status=500, error_message="cannot schedule new futures after shutdown")
        outcome = place.send("aegis.extract", text="Ada Stone met Bo Hill.").get(timeout=20)
        assert (outcome["engine"], outcome["attempts"]) == ("ollama", 1)
        eventually(lambda: "completes no token yet" in engines(place)["engines"]["vllm"]["reason"])

        place.behave(Engine.VLLM)
        place.await_engines(Engine.VLLM)
        assert place.send("aegis.extract", text="Ada Stone met Bo Hill.").get(timeout=20)["engine"] == "vllm"


def test_with_policy_hold_calls_wait_for_the_engine_that_died_and_say_so(tmp_path: Path) -> None:
    with installed(tmp_path, "extraction", llm_engine_mode="vllm", fallback="hold") as place:
        place.behave(Engine.VLLM, health_down=True)
        eventually(lambda: engines(place)["engines"]["vllm"]["state"] != "ready")

        results = [place.send("aegis.extract", text=f"Text {n}.") for n in range(3)]
        waiting = eventually(lambda: engines(place)["waiting"])

        assert list(waiting.values()) == [3]
        assert next(iter(waiting)).startswith("waits for vLLM")
        assert place.stats(Engine.OLLAMA)["requests"] == 0
        place.behave(Engine.VLLM)
        assert {result.get(timeout=20)["engine"] for result in results} == {"vllm"}


def test_a_call_that_waits_too_long_fails_and_names_what_it_waited_for(tmp_path: Path) -> None:
    starting = ("--start-seconds", "600")
    with installed(tmp_path, "chat", vllm=starting, await_engines=False, llm_engine_mode="vllm") as place:
        result = place.chat(options={"deadline_s": 1})
        error = result.get(timeout=20, propagate=False)
        assert type(error).__name__ == "DeadlineExceeded"
        assert "waits for vLLM" in str(error)


def test_a_call_closed_at_its_deadline_leaves_nothing_running_at_the_engine(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", llm_engine_mode="ollama") as place:
        place.behave(Engine.OLLAMA, hang=True)
        result = place.chat(options={"deadline_s": 1})
        eventually(lambda: place.in_flight(Engine.OLLAMA) == 1)
        assert type(result.get(timeout=20, propagate=False)).__name__ == "DeadlineExceeded"
        eventually(lambda: place.in_flight(Engine.OLLAMA) == 0)


def test_an_answer_that_does_not_come_in_time_is_asked_for_again_elsewhere_or_later(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", llm_engine_mode="ollama", call_timeout_s=1) as place:
        place.behave(Engine.OLLAMA, hang=True, times=1)
        outcome = place.chat().get(timeout=20)
        assert (outcome["status"], outcome["attempts"]) == ("ok", 2)
        assert place.in_flight(Engine.OLLAMA) == 0


def test_redis_frozen_and_back_loses_no_call(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", llm_engine_mode="ollama", ollama=("--call-seconds", "1")) as place:
        assert place.server.process is not None
        results = [place.chat() for _ in range(8)]
        eventually(lambda: place.in_flight(Engine.OLLAMA) > 0)

        place.server.process.popen.send_signal(signal.SIGSTOP)
        eventually(lambda: place.in_flight(Engine.OLLAMA) == 0)
        place.server.process.popen.send_signal(signal.SIGCONT)

        assert [result.get(timeout=30)["status"] for result in results] == ["ok"] * 8


def test_a_worker_goes_on_after_its_connections_to_redis_were_cut(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", llm_engine_mode="ollama", ollama=("--call-seconds", "1")) as place:
        results = [place.chat() for _ in range(8)]
        eventually(lambda: place.in_flight(Engine.OLLAMA) > 0)

        for client in place.redis.client_list():
            if client["id"] != str(place.redis.client_id()):
                place.redis.client_kill_filter(_id=client["id"])

        assert [result.get(timeout=30)["status"] for result in results] == ["ok"] * 8
        assert place.chat().get(timeout=20)["status"] == "ok"
        assert "Traceback" not in place.worker_logs()
