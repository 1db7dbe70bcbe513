"""Micro-batches of bulk jobs, read by real workers."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fed_jobs import FedJob, request, span
from installation import Installation, eventually, installed

from aegis_workers.routing import Engine
from aegis_workers.state import keys

pytestmark = pytest.mark.timeout(150)

CHAT = {"model": "any", "messages": [{"role": "user", "content": "How long is a river?"}]}
NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": False}


@contextmanager
def on_vllm(folder: Path, *, workers: int = 1, call_seconds: float = 0.05, **settings: Any) -> Iterator[Installation]:
    """Calls go to vLLM's simulator, or wait for it."""
    used: dict[str, Any] = {"llm_engine_mode": "vllm", "fallback": "hold", "ollama_model": None}
    options = ("--call-seconds", str(call_seconds), "--slots", "256")
    with installed(folder, *["extraction"] * workers, vllm=options, **used | settings) as place:
        yield place


def spans(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [span(number, f"Ada Stone met Bo Hill in town {number}.") for number in range(first, first + count)]


def asked(place: Installation) -> int:
    return int(place.stats(Engine.VLLM)["requests"])


def test_chunks_are_read_and_recorded_and_their_batches_are_finished(tmp_path: Path) -> None:
    with on_vllm(tmp_path) as place:
        job = FedJob(place.settings).open()
        before = asked(place)
        job.feed([*spans(70), span(70, "Ada Stone met Bo Hill.", of=2), span(71, "Bo Hill met Cy Ford.", of=2, index=1)])
        eventually(lambda: job.is_done)
        kinds = [outcome.kind.value for outcome in sorted(job.outcomes, key=lambda one: one.chunk)]
        assert kinds == ["l"] * 70 + ["p"] * 2
        assert [line["custom_id"] for line in job.lines[:70]] == [f"item {number}" for number in range(70)]
        assert {line["status"] for line in job.lines} == {"ok"}
        assert {line["engine"] for line in job.lines} == {"vllm"}
        assert asked(place) - before == 72
        eventually(lambda: place.redis.llen("extraction") == 0)
        assert not list(place.redis.scan_iter("celery-task-meta-*"))
        assert "Ada" not in place.worker_logs()
        finished = [json.loads(line) for line in place.worker_logs().splitlines() if "batch.finished" in line]
        assert sum(line["chunks"]["ok"] for line in finished) == 72


def test_completions_are_answered_in_the_form_of_openai(tmp_path: Path) -> None:
    with on_vllm(tmp_path) as place:
        job = FedJob(place.settings).open()
        schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": NAMED}}
        job.feed([request(0, CHAT), request(1, {**CHAT, "response_format": schema}), request(2, {**CHAT, "stream": True})])
        eventually(lambda: job.is_done)
        free, named, refused = job.lines
        assert free["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
        assert set(json.loads(named["response"]["body"]["choices"][0]["message"]["content"])) == {"name"}
        assert (refused["response"], refused["error"]["code"]) == (None, "item-fatal")


def test_what_a_killed_worker_held_is_recorded_once_with_few_calls_more(tmp_path: Path) -> None:
    with on_vllm(tmp_path, workers=2, call_seconds=2.0, vllm_limit=64, vllm_interactive_slots=0) as place:
        job = FedJob(place.settings).open()
        before = asked(place)
        job.feed(spans(256))
        eventually(lambda: place.in_flight(Engine.VLLM) >= 20)
        victim = place.workers[0]
        (worker_id,) = (name for name in place.redis.zrange(keys.ALIVE, 0, -1) if f":{victim.pid}:" in str(name))
        victim.popen.kill()
        held = 32 * place.redis.llen(keys.held(str(worker_id)))
        eventually(lambda: job.is_done, within_s=60)
        assert sorted(outcome.chunk for outcome in job.outcomes) == list(range(256))
        assert job.state.recorded == 256
        assert {line["status"] for line in job.lines} == {"ok"}
        assert 0 < held <= 128 + 32
        assert asked(place) - before <= 256 + held


def test_a_cancelled_job_has_its_calls_closed_and_records_nothing_more(tmp_path: Path) -> None:
    with on_vllm(tmp_path) as place:
        job = FedJob(place.settings).open()
        place.behave(Engine.VLLM, hang=True)
        job.feed(spans(64))
        eventually(lambda: place.in_flight(Engine.VLLM) == 64)
        job.cancel()
        eventually(lambda: place.in_flight(Engine.VLLM) == 0)
        eventually(lambda: place.redis.llen("extraction") == 0)
        assert job.outcomes == []


def test_a_worker_that_was_declared_dead_records_nothing(tmp_path: Path) -> None:
    with on_vllm(tmp_path, workers=2, call_seconds=3.0) as place:
        job = FedJob(place.settings).open()
        job.feed(spans(64))
        eventually(lambda: place.in_flight(Engine.VLLM) == 64)
        frozen = place.workers[0]
        (worker_id,) = (name for name in place.redis.zrange(keys.ALIVE, 0, -1) if f":{frozen.pid}:" in str(name))
        os.kill(frozen.pid, signal.SIGSTOP)
        eventually(lambda: place.redis.zscore(keys.ALIVE, str(worker_id)) is None)
        eventually(lambda: job.is_done)
        os.kill(frozen.pid, signal.SIGCONT)
        eventually(lambda: "worker.starts_anew" in place.worker_logs())
        assert sorted(outcome.chunk for outcome in job.outcomes) == list(range(64))
        assert job.state.doubled == 0


def test_a_worker_that_stops_records_what_was_in_flight_and_leaves_the_rest_to_others(tmp_path: Path) -> None:
    with on_vllm(tmp_path, call_seconds=1.0, vllm_limit=16, vllm_interactive_slots=0, shutdown_grace_s=10.0) as place:
        job = FedJob(place.settings).open()
        before = asked(place)
        job.feed(spans(32))
        eventually(lambda: place.in_flight(Engine.VLLM) == 16)
        place.workers[0].popen.terminate()
        place.workers[0].popen.wait()
        assert job.state.recorded == 16
        assert place.redis.llen("extraction") == 1
        place.start_workers("extraction")
        eventually(lambda: job.is_done)
        assert asked(place) - before == 32


def test_a_worker_takes_no_more_batches_than_it_has_room_for(tmp_path: Path) -> None:
    with on_vllm(tmp_path, vllm_limit=32, vllm_interactive_slots=0) as place:
        place.behave(Engine.VLLM, hang=True)
        job = FedJob(place.settings).open()
        job.feed(spans(32 * 20))
        eventually(lambda: place.in_flight(Engine.VLLM) == 32)
        eventually(lambda: place.redis.llen("extraction") == 18)
        (worker_id,) = (str(name) for name in place.redis.zrange(keys.ALIVE, 0, -1))
        assert place.redis.llen(keys.held(worker_id)) == 2
        assert place.settings.capacity() == 64
