"""A worker that cannot consume ends, and one that merely has nothing to do, or cannot do it yet, does not."""

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import broken_workers
import pytest
from installation import Installation, eventually, installed

from aegis_workers.local import children
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine

LIMIT_S = 3.0


def stays(worker: Process) -> bool:
    """Whether it still runs after the watchdog has had time to end it."""
    try:
        worker.popen.wait(1.5 * LIMIT_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def last_words(worker: Process) -> dict[str, Any]:
    [line] = [line for line in worker.log.read_text().splitlines() if '"worker.stuck"' in line]
    said: dict[str, Any] = json.loads(line)
    return said


def llens(place: Installation) -> int:
    """How often anybody has asked for the length of a queue."""
    return int(place.redis.info("commandstats").get("cmdstat_llen", {"calls": 0})["calls"])


def test_a_worker_that_takes_nothing_from_a_full_queue_ends_with_the_reason_and_a_new_one_does_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with installed(tmp_path, llm_engine_mode="ollama", watchdog_s=LIMIT_S) as place:
        options = broken_workers.include(broken_workers.DEAF, tmp_path / "modules", monkeypatch)
        [deaf] = place.start_workers("chat", options=options)
        results = [place.chat() for _ in range(3)]

        assert deaf.popen.wait(15) == 1

        said = last_words(deaf)
        assert said["level"] == "critical"
        assert "although chat holds 3 and nothing runs here: it ends" in said["reason"]
        assert "Traceback" not in place.worker_logs()
        place.start_workers("chat")
        assert [result.get(timeout=20)["status"] for result in results] == ["ok"] * 3


def test_a_worker_whose_main_loop_hangs_ends_although_no_signal_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(tmp_path, llm_engine_mode="ollama", watchdog_s=LIMIT_S) as place:
        options = broken_workers.include(broken_workers.HUNG, tmp_path / "modules", monkeypatch)
        [hung] = place.start_workers("chat", options=options)

        assert hung.popen.wait(30) == 1

        assert re.match(r"its main loop has not turned for \d s although Redis answers", last_words(hung)["reason"])
        assert '"worker.abandoned"' in hung.log_text()


@pytest.mark.parametrize("delay_s", ["0", "5"])
def test_a_worker_of_which_a_part_dies_ends_with_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delay_s: str) -> None:
    with installed(tmp_path) as place:
        module = broken_workers.DYING.replace("DELAY_S", delay_s)
        options = broken_workers.include(module, tmp_path / "modules", monkeypatch)
        place.workers.append(children.start_worker("control", place.settings, tmp_path, *options))

        assert place.workers[0].popen.wait(20) == 1

        assert '"worker.part_died"' in place.worker_logs()


def test_a_worker_with_an_empty_queue_stays_and_asks_redis_once_a_look(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", watchdog_s=LIMIT_S) as place:
        before = llens(place)
        assert stays(place.workers[0])
        assert 2 <= llens(place) - before <= 20  # kombu asks some too when it connects


def test_a_worker_whose_calls_wait_for_an_engine_stays_while_others_queue_behind_them(tmp_path: Path) -> None:
    with installed(tmp_path, llm_engine_mode="ollama", watchdog_s=LIMIT_S) as place:
        place.behave(Engine.OLLAMA, health_down=True)
        place.behave(Engine.VLLM, health_down=True)
        [worker] = place.start_workers("chat", options=("--concurrency", "1"))
        results = [place.chat() for _ in range(4)]
        eventually(lambda: place.redis.llen("chat") == 3)

        assert stays(worker)

        for engine in Engine:
            place.behave(engine)
        assert [result.get(timeout=20)["status"] for result in results] == ["ok"] * 4


def test_a_worker_stays_through_a_pause_of_redis(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", llm_engine_mode="ollama", watchdog_s=LIMIT_S) as place:
        assert place.server.process is not None
        place.server.process.popen.send_signal(signal.SIGSTOP)
        try:
            assert stays(place.workers[0])
        finally:
            place.server.process.popen.send_signal(signal.SIGCONT)
        results = [place.chat() for _ in range(20)]
        assert [result.get(timeout=30)["status"] for result in results] == ["ok"] * 20
        assert place.workers[0].is_alive()


def test_a_frozen_worker_that_goes_on_is_not_taken_for_a_deaf_one(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", llm_engine_mode="ollama", watchdog_s=LIMIT_S) as place:
        [worker] = place.workers
        worker.popen.send_signal(signal.SIGSTOP)
        results = [place.chat() for _ in range(8)]
        assert stays(worker)
        worker.popen.send_signal(signal.SIGCONT)
        assert [result.get(timeout=30)["status"] for result in results] == ["ok"] * 8
        assert worker.is_alive()


def test_a_worker_from_which_an_operator_took_its_queue_stays_and_may_get_it_back(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", llm_engine_mode="ollama", watchdog_s=LIMIT_S) as place:
        eventually(lambda: place.producer.control.cancel_consumer("chat", reply=True, timeout=0.5))
        result = place.chat()
        assert stays(place.workers[0])
        assert place.redis.llen("chat") == 1
        place.producer.control.add_consumer("chat")
        assert result.get(timeout=20)["status"] == "ok"
