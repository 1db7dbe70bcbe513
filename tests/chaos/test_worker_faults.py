"""Workers that are killed, stopped or frozen in the midst of a storm of calls; and another application beside them."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_application
import pytest
import storm
from celery import Celery
from installation import eventually
from storm import HELD, LIMIT, Aftermath, Storm

from aegis_workers.local import environment, process

pytestmark = pytest.mark.timeout(240)

Told = Callable[[str, object], None]

# With a mechanism taken away a call that is lost stays so: it is waited for no longer than recovery takes.
LOST_WITHIN_S = 25.0
# The pause after which a frozen worker is long taken for dead.
FROZEN_S = 12.0
# What it then finds of its calls is answers, and not that their time is up.
THAWED_WITHIN_S = 60.0


def one_killed(calls: Storm) -> None:
    calls.place.workers[0].popen.kill()


def all_killed(calls: Storm) -> None:
    for worker in calls.place.workers:
        worker.popen.kill()
    calls.all_dead()
    storm.start_workers(calls.place, 2, *calls.modules)


def one_ends_in_the_gap(calls: Storm) -> None:
    """It kills itself at the next message; a supervisor starts another."""
    (calls.place.logs / "end-in-the-gap").touch()
    eventually(lambda: not calls.place.workers[0].is_alive(), within_s=60)
    calls.all_dead()
    storm.start_workers(calls.place, 1, *calls.modules)


def one_stopped(calls: Storm) -> None:
    calls.place.workers[0].popen.terminate()
    calls.place.workers[0].popen.wait(30)


def one_frozen(calls: Storm) -> None:
    frozen = calls.place.workers[0].popen
    frozen.send_signal(signal.SIGSTOP)
    time.sleep(FROZEN_S)
    frozen.send_signal(signal.SIGCONT)


def storm_of(
    fault: Callable[[Storm], None],
    folder: Path,
    *modules: str,
    workers: int = 2,
    within_s: float = storm.WITHIN_S,
    settled: Callable[[Storm], bool] = lambda _: True,
    **settings: Any,
) -> Aftermath:
    with storm.hold(folder, *modules, workers=workers, **settings) as place:
        begun = storm.begin(place)
        begun.modules = modules
        begun.strike(fault)
        return begun.aftermath(within_s=within_s, settled=settled)


def test_nothing_is_lost_or_doubled_when_one_of_two_workers_is_killed(tmp_path: Path, record_property: Told) -> None:
    found = storm_of(one_killed, tmp_path)
    record_property("storm", found.line("kill -9 of one of two workers"))
    assert found.fulfils(extra=LIMIT), found


def test_what_a_killed_worker_held_is_lost_without_a_reaper(tmp_path: Path) -> None:
    assert storm_of(one_killed, tmp_path, "without_reaping", within_s=LOST_WITHIN_S).lost > 0


@pytest.mark.long
def test_nothing_is_lost_or_doubled_when_all_workers_are_killed(tmp_path: Path, record_property: Told) -> None:
    found = storm_of(all_killed, tmp_path)
    record_property("storm", found.line("kill -9 of all workers, new ones started"))
    assert found.fulfils(extra=found.held), found


@pytest.mark.long
def test_what_all_workers_held_is_lost_without_a_reaper(tmp_path: Path) -> None:
    assert storm_of(all_killed, tmp_path, "without_reaping", within_s=LOST_WITHIN_S).lost > 0


def test_nothing_is_lost_or_doubled_when_a_worker_ends_in_the_gap(tmp_path: Path, record_property: Told) -> None:
    found = storm_of(one_ends_in_the_gap, tmp_path, "killed_in_the_gap", workers=1)
    record_property("storm", found.line("kill -9 between pop and record"))
    assert found.fulfils(extra=found.held), found


@pytest.mark.long
def test_the_message_in_the_gap_is_lost_where_no_list_of_the_worker_has_it(tmp_path: Path) -> None:
    assert storm_of(one_ends_in_the_gap, tmp_path, "without_holding", workers=1, within_s=LOST_WITHIN_S).lost > 0


def test_nothing_is_lost_or_doubled_when_a_worker_is_told_to_stop(tmp_path: Path, record_property: Told) -> None:
    found = storm_of(one_stopped, tmp_path)
    record_property("storm", found.line("SIGTERM of one of two workers"))
    assert found.fulfils(extra=LIMIT), found


@pytest.mark.long
def test_what_a_stopped_worker_held_is_lost_where_nothing_is_put_back(tmp_path: Path) -> None:
    assert storm_of(one_stopped, tmp_path, "without_putting_back", within_s=LOST_WITHIN_S).lost > 0


def has_started_anew(calls: Storm) -> bool:
    """Whether the worker that was frozen has dealt with what it held then."""
    return "worker.starts_anew" in calls.place.workers[0].log_text()


def has_written_again(calls: Storm) -> bool:
    return max(storm.written_outcomes(calls.place).values()) > 1


@pytest.mark.long
def test_nothing_is_lost_or_doubled_when_a_worker_freezes_and_thaws(tmp_path: Path, record_property: Told) -> None:
    found = storm_of(one_frozen, tmp_path, settled=has_started_anew, call_timeout_s=THAWED_WITHIN_S)
    record_property("storm", found.line("one of two workers frozen for 12 s"))
    assert found.fulfils(extra=HELD), found


@pytest.mark.long
def test_outcomes_are_written_twice_where_a_worker_that_thaws_is_not_fenced(tmp_path: Path) -> None:
    unfenced: dict[str, Any] = {"within_s": LOST_WITHIN_S, "call_timeout_s": THAWED_WITHIN_S}
    found = storm_of(one_frozen, tmp_path, "without_fences", settled=has_written_again, **unfenced)
    assert found.twice > 0


def beside_a_foreign_application(folder: Path, *modules: str) -> tuple[Aftermath, int]:
    """What came of a storm in which a worker is killed, and how often the other application's four tasks began or will."""
    with storm.hold(folder, *modules, workers=2) as place:
        env = environment.of(place.settings) | {"PYTHONPATH": str(Path(__file__).parent)}
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "foreign_application",
            "worker",
            "-P",
            "threads",
            "-c",
            "4",
            "-Q",
            "foreign",
        ]
        foreign = process.start("foreign", [*command, "-n", "foreign@%h"], log=folder / "foreign.log", env=env)
        place.workers.append(foreign)
        with Celery("foreign producer", broker=place.settings.redis_url) as producer:
            for _ in range(4):
                producer.send_task("foreign.long", args=[15], queue="foreign")
        eventually(lambda: place.redis.get(foreign_application.STARTS) == "4")
        calls = storm.begin(place)
        calls.strike(one_killed)
        found = calls.aftermath(within_s=LOST_WITHIN_S)
        eventually(lambda: int(str(place.redis.get(foreign_application.ENDS) or 0)) >= 4, within_s=40)
        return found, int(str(place.redis.get(foreign_application.STARTS))) + place.redis.llen("foreign")


@pytest.mark.long
def test_another_application_with_long_tasks_keeps_them(tmp_path: Path, record_property: Told) -> None:
    found, starts = beside_a_foreign_application(tmp_path)
    record_property("storm", found.line("another Celery application with long tasks, kill -9 of a worker"))
    assert found.fulfils(extra=LIMIT), found
    assert starts == 4


@pytest.mark.long
def test_the_long_tasks_of_another_application_begin_twice_without_keys_of_our_own(tmp_path: Path) -> None:
    _, starts = beside_a_foreign_application(tmp_path, "without_keys_of_its_own")
    assert starts > 4
