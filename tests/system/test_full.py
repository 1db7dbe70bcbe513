"""A Redis that takes nothing in: whoever enqueues is told so at once."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from installation import Installation, eventually, installed

from aegis_workers.local import children, process
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine

PRODUCER = """
import time
from aegis_workers import chat, chat_stream, extract, extract_batch, generate
from aegis_workers.errors import RedisFull

hello = [{"role": "user", "content": "Hello."}]
ways = (
    lambda: extract.delay("Ada Stone founded Riverton Glass."),
    lambda: extract_batch.delay([{"custom_id": "a", "text": "Ada Stone."}]),
    lambda: chat.delay(hello),
    lambda: generate.delay("Once"),
    lambda: next(chat_stream(hello)),
)
for way in ways:
    began = time.monotonic()
    try:
        way()
    except RedisFull as error:
        assert error.__suppress_context__ and error.__cause__ is None
        print(error)
    assert time.monotonic() - began < 2
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Installation]:
    """An installation without workers, and its Redis is full."""
    with installed(tmp_path) as place:
        place.redis.config_set("maxmemory", 1)
        yield place


def test_every_way_to_enqueue_says_at_once_that_redis_is_full_and_what_to_do(place: Installation) -> None:
    told = place.python(PRODUCER)
    assert told.stderr == ""
    lines = told.stdout.splitlines()
    assert len(lines) == 5
    assert all("is full, nothing was written: let workers empty its queues, then try again" in line for line in lines)
    assert place.redis.dbsize() == 0


def test_the_command_line_says_it_in_one_sentence_and_ends_with_1(place: Installation) -> None:
    told = place.cli("chat", "Hello.")
    assert (told.returncode, told.stdout) == (1, "")
    [line] = told.stderr.splitlines()
    assert line.startswith("Error: Redis at ")
    assert "is full" in line


def test_an_operator_can_still_switch_engines(place: Installation) -> None:
    assert place.cli("mode", "set", "ollama").stdout == "Mode is ollama (was not set).\n"
    assert place.cli("mode", "get").stdout == "ollama\n"


def test_what_was_refused_can_be_enqueued_once_there_is_room(place: Installation) -> None:
    told = place.python("""
import os
import redis
from aegis_workers import extract
from aegis_workers.errors import RedisFull
try:
    extract.delay("Ada Stone.")
except RedisFull:
    redis.Redis.from_url(os.environ["AEGIS_REDIS_URL"]).config_set("maxmemory", 0)
    extract.delay("Ada Stone.")
""")
    assert told.stderr == ""
    assert place.redis.llen("extraction") == 1


def test_a_worker_waits_for_room_and_does_not_take_itself_for_stuck(tmp_path: Path) -> None:
    with installed(tmp_path, llm_engine_mode="ollama", watchdog_s=3, health_dir=tmp_path / "health") as place:
        results = [place.chat() for _ in range(3)]
        place.redis.config_set("maxmemory", 1)
        place.workers.append(children.start_worker("chat", place.settings, tmp_path))

        eventually(lambda: "Redis gives no messages" in place.cli("health").stdout)
        with pytest.raises(subprocess.TimeoutExpired):
            place.workers[0].popen.wait(5)

        assert place.cli("health", "--live").returncode == 0
        place.redis.config_set("maxmemory", 0)
        assert [result.get(timeout=20)["status"] for result in results] == ["ok"] * 3


def test_a_worker_that_loses_its_connection_to_a_full_redis_waits_too(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", llm_engine_mode="ollama", watchdog_s=3) as place:
        assert place.chat().get(timeout=20)["status"] == "ok"
        [worker] = place.workers
        worker.popen.send_signal(signal.SIGSTOP)
        place.redis.client_kill_filter(_type="normal", skipme=True)
        results = [place.chat() for _ in range(3)]
        place.redis.config_set("maxmemory", 1)
        worker.popen.send_signal(signal.SIGCONT)

        assert waits_calmly(place, worker)

        place.redis.config_set("maxmemory", 0)
        assert [result.get(timeout=30)["status"] for result in results] == ["ok"] * 3


# As the README starts them, and as `up` does, without what they would tell each other.
@pytest.mark.parametrize("options", [(), ("--without-mingle", "--without-gossip")], ids=["all", "up"])
def test_a_worker_that_starts_on_a_full_redis_waits_and_says_little(tmp_path: Path, options: Sequence[str]) -> None:
    with installed(tmp_path, llm_engine_mode="ollama", watchdog_s=3) as place:
        results = [place.chat() for _ in range(3)]
        place.redis.config_set("maxmemory", 1)
        command = [sys.executable, "-m", "celery", "-A", "aegis_workers", "worker", "-Q", "chat", "-l", "info", *options]
        worker = process.start("worker", command, log=tmp_path / "worker.log", env=place.environment)
        place.workers.append(worker)
        eventually(lambda: "worker.not_enlisted" in worker.log_text())
        eventually(lambda: ". aegis.set_engine_mode" in worker.log_text())  # the last line of what Celery greets with

        assert waits_calmly(place, worker)

        place.redis.config_set("maxmemory", 0)
        assert [result.get(timeout=30)["status"] for result in results] == ["ok"] * 3


def test_a_worker_whose_redis_is_full_says_so_now_and_then_and_stops_when_told(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", llm_engine_mode="ollama", ollama=("--call-seconds", "1"), watchdog_s=3) as place:
        results = [place.chat() for _ in range(8)]
        eventually(lambda: place.in_flight(Engine.OLLAMA) == 4)
        [worker] = place.workers
        place.redis.config_set("maxmemory", 1)
        eventually(lambda: place.in_flight(Engine.OLLAMA) == 0)

        assert waits_calmly(place, worker)

        assert place.worker_logs().count("result.waits_for_redis") == 1
        worker.popen.terminate()
        assert worker.popen.wait(20) == 0
        place.redis.config_set("maxmemory", 0)
        place.start_workers("chat")
        assert [result.get(timeout=30)["status"] for result in results] == ["ok"] * 8


def waits_calmly(place: Installation, worker: Process) -> bool:
    """Whether for some seconds it neither ends, nor connects more than some times, nor says more than some lines."""
    eventually(lambda: "is full, nothing was written" in worker.log_text())  # of its parts, the prober says it last
    lines, connections = place.worker_logs().count("\n"), connected(place)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.popen.wait(8)
    return place.worker_logs().count("\n") - lines <= 8 and connected(place) - connections <= 16


def connected(place: Installation) -> int:
    """How often anybody has connected."""
    return int(place.redis.info("stats")["total_connections_received"])
