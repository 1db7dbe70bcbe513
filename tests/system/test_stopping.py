"""A worker that is told to stop in the middle of its calls."""

import signal
from pathlib import Path

import pytest
from installation import eventually, installed

from aegis_workers.routing import Engine


def test_calls_that_end_within_the_grace_are_finished(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", ollama=("--call-seconds", "1.5"), llm_engine_mode="ollama", shutdown_grace_s=10) as place:
        results = [place.chat() for _ in range(4)]
        eventually(lambda: place.in_flight(Engine.OLLAMA) == 4)
        (worker,) = place.workers

        worker.popen.send_signal(signal.SIGTERM)

        assert worker.popen.wait(15) == 0
        assert [result.get(timeout=1)["status"] for result in results] == ["ok"] * 4
        assert place.stats(Engine.OLLAMA)["aborted"] == 0
        assert place.redis.llen("chat") == 0


@pytest.mark.parametrize("queue", ["chat", "extraction"])
def test_calls_that_outlast_the_grace_are_closed_and_done_by_the_next_worker(tmp_path: Path, queue: str) -> None:
    with installed(tmp_path, queue, ollama=("--slots", "4"), llm_engine_mode="ollama", shutdown_grace_s=1) as place:
        place.behave(Engine.OLLAMA, hang=True)
        # Four are in flight, four wait for a slot.
        results = [place.chat() if queue == "chat" else place.send("aegis.extract", text=f"Text {n}.") for n in range(8)]
        eventually(lambda: place.in_flight(Engine.OLLAMA) == 4)
        (worker,) = place.workers

        worker.popen.send_signal(signal.SIGTERM)

        assert worker.popen.wait(15) == 0
        assert eventually(lambda: place.in_flight(Engine.OLLAMA) == 0)
        assert place.redis.llen(queue) == 8
        assert list(place.redis.scan_iter("aegis:held:*", _type="list")) == []
        place.behave(Engine.OLLAMA)
        place.start_workers(queue)
        assert {result.get(timeout=20)["status"] for result in results} <= {"ok", "empty"}


def test_a_stopped_worker_is_no_longer_listed(tmp_path: Path) -> None:
    with installed(tmp_path, "chat") as place:
        (worker,) = place.workers
        worker.popen.send_signal(signal.SIGTERM)
        assert worker.popen.wait(15) == 0
        assert list(place.redis.scan_iter("aegis:worker:*")) == []
        assert "Traceback" not in place.worker_logs()
