"""The events of tasks, as Flower and its like hear them."""

import base64
import json
import signal
from pathlib import Path
from typing import Any

from installation import eventually, installed

from aegis_workers.routing import Engine

TASKS = 40


def test_events_travel_together_and_those_of_a_worker_that_stops_are_not_lost(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", vllm=("--call-seconds", "1.5"), llm_engine_mode="vllm", shutdown_grace_s=10) as place:
        (worker,) = place.workers
        with place.redis.pubsub() as listener:  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            listener.psubscribe("*celeryev/task.multi")
            assert listener.get_message(timeout=5)
            results = [place.chat() for _ in range(TASKS)]
            eventually(lambda: place.in_flight(Engine.VLLM) == TASKS)
            worker.popen.send_signal(signal.SIGTERM)
            assert worker.popen.wait(15) == 0
            batches = [events(message) for message in iter(lambda: listener.get_message(timeout=0.1), None)]
        assert [result.get(timeout=1)["status"] for result in results] == ["ok"] * TASKS
    succeeded = {event["uuid"] for batch in batches for event in batch if event["type"] == "task-succeeded"}
    assert succeeded == {result.id for result in results}
    assert len(batches) < TASKS / 2


def events(message: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
    return found
