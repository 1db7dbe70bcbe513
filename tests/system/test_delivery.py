"""What a worker holds survives it: kills, freezes and lost connections in the middle of calls."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery.result import AsyncResult
from installation import Installation, eventually, installed

from aegis_workers.local import children, process
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine
from aegis_workers.state import keys

pytestmark = pytest.mark.timeout(150)  # some wait for as long as a worker may be silent, or Redis away

RUNS_AGAIN_WITHIN_S = 10.0
# Calls in flight, and messages that a worker holds, that make it busy: how many more there will be is the machine's affair.
BUSY = 20
DONE = {"ok", "empty"}


@contextmanager
def on_vllm(folder: Path, *queues: str, call_seconds: float = 2.0, **settings: Any) -> Iterator[Installation]:
    """Calls go to vLLM's simulator, or wait for it."""
    used: dict[str, Any] = {"llm_engine_mode": "vllm", "fallback": "hold", "ollama_model": None}
    with installed(folder, *queues, vllm=("--call-seconds", str(call_seconds), "--slots", "256"), **used | settings) as place:
        yield place


def send(place: Installation, count: int, **options: Any) -> list[AsyncResult]:
    texts = (f"Ada Stone met Bo Hill in town {number}." for number in range(count))
    arguments = ({"text": text, "version": 1} for text in texts)
    return [place.producer.send_task("aegis.extract", kwargs=each, queue="extraction", **options) for each in arguments]


def statuses(results: Sequence[AsyncResult], *, within_s: float = 40.0) -> set[str]:
    deadline = time.monotonic() + within_s
    return {result.get(timeout=max(0.1, deadline - time.monotonic()))["status"] for result in results}


def asked(place: Installation) -> int:
    """Calls that the engine was asked for."""
    return int(place.stats(Engine.VLLM)["requests"])


def alive(place: Installation) -> set[str]:
    return {str(name) for name in place.redis.zrange(keys.ALIVE, 0, -1)}


def id_of(place: Installation, worker: Process) -> str:
    (found,) = (name for name in alive(place) if f":{worker.pid}:" in name)
    return found


def is_buried(place: Installation, worker_id: str) -> bool:
    return place.redis.type(keys.held(worker_id)) == "string"


def held(place: Installation) -> int:
    """Messages that any worker holds."""
    return sum(place.redis.llen(name) for name in place.redis.scan_iter("aegis:held:*", _type="list"))


def nothing_is_left(place: Installation) -> bool:
    return held(place) == 0 and place.redis.llen("extraction") == 0


def cut_connections(place: Installation) -> None:
    own = str(place.redis.client_id())
    for client in place.redis.client_list():
        if client["id"] != own:
            place.redis.client_kill_filter(_id=client["id"])


def freeze_redis(place: Installation, seconds: float) -> None:
    assert place.server.process is not None
    place.server.process.popen.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    place.server.process.popen.send_signal(signal.SIGCONT)


def test_what_a_killed_worker_held_runs_again_within_ten_seconds(tmp_path: Path) -> None:
    with on_vllm(tmp_path, "extraction", "extraction") as place:
        before = asked(place)
        results = send(place, 200)
        victim = place.workers[0]
        victim_id = id_of(place, victim)
        eventually(lambda: place.in_flight(Engine.VLLM) >= BUSY and place.redis.llen(keys.held(victim_id)) >= BUSY)

        victim.popen.kill()
        killed_at = time.monotonic()
        lost = place.redis.llen(keys.held(victim_id))
        eventually(lambda: is_buried(place, victim_id))

        assert time.monotonic() - killed_at < RUNS_AGAIN_WITHIN_S
        assert statuses(results) <= DONE
        assert 0 < lost <= place.settings.threads()
        assert asked(place) - before <= 200 + lost
        eventually(lambda: nothing_is_left(place))
        assert len(place.redis.hkeys(keys.WORKER_QUEUES)) == 1


def test_what_the_only_worker_held_runs_again_in_the_next(tmp_path: Path) -> None:
    with on_vllm(tmp_path, "extraction", call_seconds=3) as place:
        results = send(place, 30)
        eventually(lambda: place.in_flight(Engine.VLLM) >= BUSY)
        place.workers[0].popen.kill()
        place.start_workers("extraction")
        assert statuses(results) <= DONE
        eventually(lambda: nothing_is_left(place))


KILLED_BETWEEN = """
import os, signal
from aegis_workers.worker import transport

def killed(self, raw):
    os.kill(os.getpid(), signal.SIGKILL)

transport.Channel._deliver = killed
"""


def test_a_message_whose_worker_is_killed_before_it_looked_at_it_runs_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "killed_between.py").write_text(KILLED_BETWEEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with on_vllm(tmp_path, call_seconds=0.1) as place:
        (victim,) = place.start_workers("extraction", options=("--include", "killed_between"))
        (result,) = send(place, 1)
        assert victim.popen.wait(20) == -signal.SIGKILL
        assert (held(place), place.redis.llen("extraction")) == (1, 0)

        place.start_workers("extraction")

        assert statuses([result]) <= DONE
        eventually(lambda: nothing_is_left(place))


def test_a_frozen_worker_that_thaws_records_nothing_and_starts_anew(tmp_path: Path) -> None:
    with on_vllm(tmp_path, "extraction", "extraction", call_seconds=3.0) as place:
        before = asked(place)
        results = send(place, 100)
        frozen = place.workers[0]
        known, frozen_id = alive(place), id_of(place, frozen)
        eventually(lambda: place.in_flight(Engine.VLLM) >= BUSY and place.redis.llen(keys.held(frozen_id)) >= BUSY)

        frozen.popen.send_signal(signal.SIGSTOP)
        lost = place.redis.llen(keys.held(frozen_id))
        eventually(lambda: is_buried(place, frozen_id))
        frozen.popen.send_signal(signal.SIGCONT)

        eventually(lambda: len(alive(place) - known) == 1)
        assert frozen.is_alive()
        assert statuses(results) <= DONE
        assert asked(place) - before <= 100 + lost
        eventually(lambda: nothing_is_left(place))
        assert statuses(send(place, 100)) <= DONE


@pytest.mark.parametrize("command", [("-m", "celery"), (str(Path(sys.executable).with_name("celery")),)], ids=["-m", "script"])
def test_a_worker_that_was_declared_dead_starts_anew_as_the_same_process(tmp_path: Path, command: Sequence[str]) -> None:
    with installed(tmp_path) as place:
        options = ["-A", "aegis_workers", "worker", "--queues", "control", "--concurrency", "1", "--loglevel", "info"]
        worker = process.start("worker", [sys.executable, *command, *options], log=tmp_path / "worker.log", env=place.environment)
        place.workers.append(worker)
        first = eventually(lambda: alive(place))
        eventually(lambda: " ready." in worker.log_text())

        place.redis.delete(keys.ALIVE)

        second = eventually(lambda: alive(place))
        assert first.isdisjoint(second)
        assert {name.split(":")[1] for name in first | second} == {str(worker.pid)}
        assert place.send("aegis.get_engine_mode").get(timeout=20)["mode"] == "auto"
        assert "worker.starts_anew" in worker.log_text()


def test_what_comes_right_after_redis_was_emptied_is_done(tmp_path: Path) -> None:
    """Workers take it before they know that Redis has forgotten them."""
    with on_vllm(tmp_path, "extraction", call_seconds=0.1) as place:
        known = alive(place)
        place.redis.flushall()
        results = send(place, 20)
        assert statuses(results) <= DONE
        assert alive(place).isdisjoint(known)
        eventually(lambda: nothing_is_left(place))


def test_connections_that_are_cut_make_nothing_run_twice(tmp_path: Path) -> None:
    with on_vllm(tmp_path, "extraction", call_seconds=4.0) as place:
        before = asked(place)
        results = send(place, 100)
        eventually(lambda: place.in_flight(Engine.VLLM) >= BUSY)

        cut_connections(place)

        assert statuses(results) <= DONE
        assert asked(place) - before == 100
        eventually(lambda: nothing_is_left(place))


def test_a_message_for_later_outlives_a_lost_connection_and_is_not_late(tmp_path: Path) -> None:
    with on_vllm(tmp_path, "extraction", call_seconds=0.1) as place:
        due_at = time.monotonic() + 6
        later = send(place, 3, countdown=6)
        eventually(lambda: held(place) == 3)

        cut_connections(place)

        assert statuses(later) <= DONE
        assert time.monotonic() - due_at < 3
        eventually(lambda: nothing_is_left(place))


@pytest.mark.parametrize("queues", ["extraction,chat", ""], ids=["two", "all"])
def test_a_worker_for_several_queues_is_refused(tmp_path: Path, queues: str) -> None:
    with installed(tmp_path) as place:
        command = [sys.executable, "-m", "celery", "-A", "aegis_workers", "worker", *(["--queues", queues] if queues else [])]
        told = place.run(command)
        assert told.returncode == 1
        assert "Error: a worker takes from one queue, not from chat" in told.stderr
        assert told.stderr.strip().endswith("start one process for each, with -Q and its name")


@pytest.mark.long
def test_a_redis_that_pauses_makes_nobody_look_dead(tmp_path: Path) -> None:
    with on_vllm(tmp_path, "extraction", "extraction") as place:
        before, living = asked(place), alive(place)
        results = send(place, 300)
        eventually(lambda: place.in_flight(Engine.VLLM) >= BUSY)

        freeze_redis(place, 20)

        assert statuses(results) <= DONE
        assert alive(place) == living
        assert asked(place) - before == 300
        eventually(lambda: nothing_is_left(place))


@pytest.mark.long
def test_a_redis_that_restarts_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with on_vllm(tmp_path, "extraction", "extraction") as place:
        before, living = asked(place), alive(place)
        results = send(place, 300)
        eventually(lambda: place.in_flight(Engine.VLLM) >= BUSY)

        place.restart_redis()

        assert statuses(results) <= DONE
        assert alive(place) == living
        assert asked(place) - before == 300
        eventually(lambda: nothing_is_left(place))


def test_a_full_redis_makes_workers_wait_and_go_on(tmp_path: Path) -> None:
    with on_vllm(tmp_path, "extraction", "extraction", call_seconds=1.0) as place:
        before, living = asked(place), alive(place)
        results = send(place, 300)
        eventually(lambda: place.in_flight(Engine.VLLM) >= BUSY)

        place.redis.config_set("maxmemory", 1)
        eventually(lambda: place.in_flight(Engine.VLLM) == 0)
        eventually(lambda: "result.waits_for_redis" in place.worker_logs())
        eventually(lambda: "redis.gives_no_messages" in place.worker_logs())
        time.sleep(8)  # longer than a worker may be silent
        place.redis.config_set("maxmemory", 0)

        assert statuses(results) <= DONE
        assert alive(place) == living
        assert asked(place) - before == 300
        eventually(lambda: nothing_is_left(place))


def test_a_worker_that_starts_on_a_full_redis_waits_for_room(tmp_path: Path) -> None:
    limit_s = 3.0
    with on_vllm(tmp_path, call_seconds=0.1, watchdog_s=limit_s) as place:
        results = send(place, 5)
        place.redis.config_set("maxmemory", 1)
        worker = children.start_worker("extraction", place.settings, tmp_path, "--loglevel", "info")
        place.workers.append(worker)
        eventually(lambda: "worker.not_enlisted" in worker.log_text())
        with pytest.raises(subprocess.TimeoutExpired):
            worker.popen.wait(3 * limit_s)

        place.redis.config_set("maxmemory", 0)

        assert statuses(results) <= DONE


def test_a_worker_that_must_stop_while_redis_takes_no_results_puts_its_messages_back(tmp_path: Path) -> None:
    with on_vllm(tmp_path, "extraction", call_seconds=4.0) as place:
        results = send(place, 20)
        eventually(lambda: place.in_flight(Engine.VLLM) == 20)
        place.redis.config_set("maxmemory", 1)
        eventually(lambda: "result.waits_for_redis" in place.worker_logs())

        place.workers[0].popen.terminate()
        assert place.workers[0].popen.wait(20) == 0
        assert place.redis.llen("extraction") == 20
        place.redis.config_set("maxmemory", 0)

        place.start_workers("extraction")
        assert statuses(results) <= DONE


def test_a_message_with_a_priority_takes_its_turn(tmp_path: Path) -> None:
    with on_vllm(tmp_path, "extraction", call_seconds=0.1) as place:
        assert statuses([result for priority in range(10) for result in send(place, 1, priority=priority)]) <= DONE


def test_what_is_no_message_is_dropped_and_the_worker_goes_on(tmp_path: Path) -> None:
    unreadable = [b"\xff", b"5", b"{}", b'{"properties": {"delivery_tag": "a"}, "body": 5}']
    with on_vllm(tmp_path, "extraction", call_seconds=0.1) as place:
        place.redis.lpush("extraction", *unreadable)
        assert statuses(send(place, 1)) <= DONE
        eventually(lambda: nothing_is_left(place))
        assert place.worker_logs().count("message.unreadable") == len(unreadable)


FOREIGN = """
import time
from celery import Celery

app = Celery("foreign", broker="{url}", backend="{url}")
app.conf.update(task_acks_late=True, task_default_queue="foreign", worker_prefetch_multiplier=4)

@app.task(name="foreign.long")
def long(seconds):
    with open("{starts}", "a") as starts:
        starts.write("started\\n")
    time.sleep(seconds)
    return seconds
"""


@contextmanager
def foreign_worker(place: Installation, folder: Path) -> Iterator[Callable[[], int]]:
    """A worker of an application that knows nothing of this one, on the same Redis; gives how many tasks it started."""
    starts = folder / "starts"
    starts.touch()
    (folder / "foreign.py").write_text(FOREIGN.format(url=place.settings.redis_url, starts=starts))
    command = [sys.executable, "-m", "celery", "-A", "foreign", "worker", "--pool", "threads", "--concurrency", "2"]
    env = {**os.environ, "PYTHONPATH": str(folder)}
    worker = subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield lambda: len(starts.read_text().splitlines())
    finally:
        worker.terminate()
        worker.wait(30)


@pytest.mark.long
def test_another_application_on_the_same_redis_keeps_what_it_holds(tmp_path: Path) -> None:
    with on_vllm(tmp_path, call_seconds=0.1) as place, foreign_worker(place, tmp_path) as starts:
        foreign = [place.producer.send_task("foreign.long", args=[8], queue="foreign") for _ in range(4)]
        eventually(lambda: place.redis.hlen("unacked") == 4 and starts() == 2)
        for tag in place.redis.hkeys("unacked"):
            place.redis.zadd("unacked_index", {str(tag): 1})  # whoever restores by age would take it for abandoned

        place.start_workers("extraction")
        assert statuses(send(place, 20)) <= DONE
        assert place.python("from aegis_workers import app; app.control.ping(timeout=1)").returncode == 0
        place.workers[0].popen.kill()
        place.start_workers("extraction")
        assert statuses(send(place, 20)) <= DONE

        assert [result.get(timeout=30) for result in foreign] == [8] * 4
        assert starts() == 4
