"""Faults in the midst of a job of 2,000 items: each item has one line, and no more calls are made than the fault explains."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import job_storm
import pytest
from installation import eventually
from job_place import JobPlace, ids, job_place, lines, texts
from job_storm import AT_LEAST, ITEMS, LIMIT, PROOFS, JobStorm

from aegis_workers.jobs.journal import State
from aegis_workers.jobs.local import LocalDesk
from aegis_workers.local import environment
from aegis_workers.routing import Engine
from aegis_workers.state import keys

pytestmark = pytest.mark.timeout(180)

Told = Callable[[str, object], None]

WINDOW = 1024
DISK_BYTES = 64_000_000
# After which a frozen controller has long lost its lock.
FROZEN_S = 12.0


@contextmanager
def disk_of_its_own(folder: Path) -> Iterator[bool]:
    """A small file system at `folder`, which a test may fill; False where this user may not have one."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobPlace]:
    folder = tmp_path_factory.mktemp("jobs")
    with (
        disk_of_its_own(folder / "data"),
        pytest.MonkeyPatch.context() as patch,
        job_place(folder, workers=2, window_calls=WINDOW, vllm_limit=LIMIT, fallback="hold") as place,
    ):
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))))
        yield place


@pytest.fixture
def here(shared: JobPlace) -> Iterator[JobPlace]:
    """Two workers and no controller, on an engine without faults."""
    shared.place.behave(Engine.VLLM)
    living = sum(worker.is_alive() for worker in shared.place.workers)
    shared.place.start_workers(*["extraction"] * (2 - living))
    yield shared
    shared.stop_controllers()


def controller_killed(storm: JobStorm) -> int:
    storm.here.controllers[0].popen.kill()
    eventually(lambda: "controller.leads" in storm.here.controllers[1].log_text(), within_s=20)
    return 0


def controller_frozen(storm: JobStorm) -> int:
    first, second = storm.here.controllers
    os.killpg(first.pid, signal.SIGSTOP)
    eventually(lambda: "controller.leads" in second.log_text(), within_s=FROZEN_S * 2)
    os.killpg(first.pid, signal.SIGCONT)
    eventually(lambda: "controller.stands_by" in first.log_text() or "controller.deposed" in first.log_text())
    return 0


def worker_killed(storm: JobStorm) -> int:
    victim = next(worker for worker in storm.here.place.workers if worker.is_alive())
    victim.popen.send_signal(signal.SIGSTOP)  # it holds what it holds from here on
    held = job_storm.holdings(storm.here, victim.pid)
    victim.popen.kill()
    return min(held, LIMIT)


def redis_restarted(storm: JobStorm) -> int:
    storm.here.place.restart_redis(away_s=2.0)
    return 0


def redis_wiped(storm: JobStorm) -> int:
    """What is in motion is read in the step in which it is wiped."""
    with storm.here.place.redis.pipeline(transaction=True) as commands:
        commands.hmget(keys.job(storm.job.id), "out_chunks", "recorded", "collected")
        commands.flushall()
        (out_chunks, recorded, collected), _ = commands.execute()
    return int(out_chunks or 0) + int(recorded or 0) - int(collected or 0) + PROOFS


def disk_filled(storm: JobStorm) -> int:
    """Until nothing moves any more, and the job says why."""
    with (storm.here.place.settings.data_dir / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(65_536))
        except OSError:
            pass
        eventually(lambda: "disk" in str((state := storm.here.state(storm.job)) and state.waits))
        told = storm.here.place.cli("status", storm.job.id).stdout
        assert "the disk of AEGIS_DATA_DIR is full" in told
        eventually(lambda: storm.here.place.in_flight(Engine.VLLM) == 0)
        assert storm.job.journal.last().state is State.IN_PROGRESS
    Path(ballast.name).unlink()
    return 0


def engine_killed(storm: JobStorm) -> int:
    place = storm.here.place
    storm.asked_before -= storm.here.asked()
    place.kill_engine(Engine.VLLM)
    eventually(lambda: place.redis.hget(keys.engine(Engine.VLLM), "state") == "unavailable")
    place.bring_back(Engine.VLLM)
    return LIMIT + PROOFS


FAULTS: list[tuple[str, Callable[[JobStorm], int], int]] = [
    ("kill -9 of the controller that leads, another stands by", controller_killed, 2),
    ("the controller that leads frozen past its lock, another stands by", controller_frozen, 2),
    ("kill -9 of one of two workers", worker_killed, 1),
    ("Redis killed and restarted (append-only file on)", redis_restarted, 1),
    ("FLUSHALL", redis_wiped, 1),
    ("an engine is killed and comes back", engine_killed, 1),
]
# Shown in part by other tests.
LONG = {controller_frozen, engine_killed, redis_restarted}


@pytest.mark.parametrize(
    ("fault", "strike", "controllers"),
    [pytest.param(*fault, id=fault[0], marks=[pytest.mark.long] if fault[1] in LONG else []) for fault in FAULTS],
)
def test_every_item_has_its_one_line_after(
    here: JobPlace, record_property: Told, fault: str, strike: Callable[[JobStorm], int], controllers: int
) -> None:
    found = job_storm.storm_on(here, strike, controllers=controllers)
    record_property("storm on a job", found.line(fault))
    assert found.holds, found


def test_every_item_has_its_one_line_after_the_disk_was_full(here: JobPlace, record_property: Told) -> None:
    if not os.path.ismount(here.place.settings.data_dir):
        pytest.skip("a disk that can be filled takes the right to mount one")
    found = job_storm.storm_on(here, disk_filled)
    record_property("storm on a job", found.line("the disk of the jobs is full, then has room again"))
    assert found.holds, found


# Where the collector dies, in the order of its steps.
DEATHS = (
    "write:1:before",
    "write_new:1:after",
    "write_new:2:after",
    "_finish:1:after",
    "_finish:2:after",
    "write:1:after",
    "commit_in_redis:1:before",
    "commit_in_redis:1:after",
    "_move:2:after",
    "_move:3:after",
    "commit:1:after",
)


@pytest.mark.long
def test_every_item_has_its_one_line_after_the_collector_died_between_each_of_its_steps(
    here: JobPlace, record_property: Told
) -> None:
    here.place.behave(Engine.VLLM, slow_s=3)  # while nothing is fed, what was fed must not run out
    dying = [here.start_controller(module="dies_collecting", DIES_AT=DEATHS[0])]
    storm = job_storm.begin(here)
    seen = []
    for death in (*DEATHS[1:], None):
        eventually(lambda: not dying[-1].is_alive(), within_s=30)
        assert dying[-1].popen.returncode == -signal.SIGKILL
        seen.append(here.place.in_flight(Engine.VLLM))
        here.place.redis.delete(keys.CONTROLLER)  # as it ends by itself after some seconds
        dying.append(here.start_controller(module="dies_collecting", DIES_AT=death) if death else here.start_controller())
    here.place.behave(Engine.VLLM)
    storm.in_flight, storm.ended_at = min(seen), time.monotonic()
    found = storm.aftermath()
    record_property("storm on a job", found.line(f"kill -9 of the controller at each of {len(DEATHS)} steps of a part"))
    assert found.holds, found


@pytest.mark.long
def test_two_processes_that_submit_at_once_with_one_key_make_one_job(here: JobPlace, tmp_path: Path) -> None:
    job_storm.lead(here)
    before, jobs = here.asked(), set(here.spool.ids())
    names = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for path in names:
        path.write_text("".join(f'{{"custom_id": "{name}", "text": "{text}"}}\n' for name, text in texts(ITEMS)))
    command = [sys.executable, "-m", "aegis_workers.cli", "submit", "--key", "corpus"]
    env = environment.of(here.place.settings)
    both = [subprocess.Popen([*command, str(path)], env=env, stdout=subprocess.DEVNULL) for path in names]
    assert [process.wait(60) for process in both] == [0, 0]
    (job_id,) = set(here.spool.ids()) - jobs
    job = here.spool.open(job_id)
    here.await_state(job, State.COMPLETED, within_s=job_storm.WITHIN_S)
    assert ids(lines(job)) == Counter(name for name, _ in texts(ITEMS))
    assert here.asked() - before == ITEMS


@pytest.mark.long
def test_a_cancelled_job_has_its_calls_closed_and_its_retry_asks_for_the_rest_alone(here: JobPlace) -> None:
    job_storm.lead(here)
    storm = job_storm.begin(here)
    closed_before = here.place.stats(Engine.VLLM)["aborted"]
    here.await_lines(storm.job, LIMIT)
    here.place.behave(Engine.VLLM, hang=True)
    eventually(lambda: len(lines(storm.job)) == here.asked() - storm.asked_before - LIMIT)
    assert here.place.in_flight(Engine.VLLM) == LIMIT
    with LocalDesk(here.place.settings) as desk:
        desk.cancel(storm.job.id)
        here.await_state(storm.job, State.CANCELLED)
        eventually(lambda: here.place.in_flight(Engine.VLLM) == 0)
        done = ids([line for line in lines(storm.job) if line["status"] == "ok"])
        assert LIMIT <= done.total() <= ITEMS - LIMIT
        closed = here.place.stats(Engine.VLLM)["aborted"] - closed_before
        assert (closed, here.asked()) == (LIMIT, storm.asked_before + done.total() + closed)

        here.place.behave(Engine.VLLM)
        rest = here.spool.open(desk.retry(storm.job.id))
        here.await_state(rest, State.COMPLETED, within_s=job_storm.WITHIN_S)
        assert ids(lines(rest)) == Counter(name for name, _ in texts(ITEMS)) - done
        assert here.asked() == storm.asked_before + closed + ITEMS
        assert ids([json.loads(line.body) for line in desk.lines(storm.job.id)]) == Counter(name for name, _ in texts(ITEMS))


def test_every_line_names_an_engine_that_was_allowed_while_the_mode_was_switched_three_times(tmp_path: Path) -> None:
    both: dict[str, Any] = {"ollama_model": "sim", "ollama_limit": LIMIT, "ollama_interactive_slots": 0, "fallback": "hold"}
    options = ("--call-seconds", "0.2", "--slots", "256")
    with job_place(tmp_path, window_calls=WINDOW, ollama=options, **both) as here:
        job_storm.lead(here)
        before = {engine: here.asked(engine) for engine in Engine}
        job = here.submit(texts(ITEMS))
        here.await_lines(job, LIMIT)
        for left, taken in ((Engine.VLLM, Engine.OLLAMA), (Engine.OLLAMA, Engine.VLLM), (Engine.VLLM, Engine.OLLAMA)):
            eventually(lambda: here.place.in_flight(left) >= AT_LEAST)  # noqa: B023 - called at once
            here.place.redis.set(keys.MODE, taken.value)
            eventually(lambda: here.place.in_flight(left) == 0)  # noqa: B023
            asked = here.asked(left)
            eventually(lambda: here.place.in_flight(taken) >= AT_LEAST)  # noqa: B023
            assert here.asked(left) == asked
        here.await_state(job, State.COMPLETED, within_s=job_storm.WITHIN_S)
        found = lines(job)
        assert ids(found) == Counter(name for name, _ in texts(ITEMS))
        assert {(line["mode"], line["engine"]) for line in found} == {("vllm", "vllm"), ("ollama", "ollama")}
        ran = Counter(line["engine"] for line in found)
        assert ran == {engine.value: here.asked(engine) - before[engine] for engine in Engine}
