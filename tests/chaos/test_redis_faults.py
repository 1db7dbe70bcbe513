"""A Redis that restarts or pauses in the midst of a storm of calls."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import storm
from storm import HELD, LIMIT, Aftermath, Storm

pytestmark = pytest.mark.timeout(240)

Told = Callable[[str, object], None]

AWAY_S = 4.0
PAUSED_S = 20.0
LOST_WITHIN_S = 30.0


def restarted(calls: Storm) -> None:
    """Killed, and started again on the same files some seconds later."""
    calls.place.restart_redis(away_s=AWAY_S)


def paused(calls: Storm) -> None:
    assert calls.place.server.process is not None
    server = calls.place.server.process.popen
    server.send_signal(signal.SIGSTOP)
    time.sleep(PAUSED_S)
    server.send_signal(signal.SIGCONT)


def storm_of(fault: Callable[[Storm], None], folder: Path, *modules: str, within_s: float = storm.WITHIN_S) -> Aftermath:
    with storm.hold(folder, *modules, workers=2) as place:
        calls = storm.begin(place)
        calls.strike(fault)
        return calls.aftermath(within_s=within_s)


def test_nothing_is_lost_or_doubled_when_redis_restarts(tmp_path: Path, record_property: Told) -> None:
    found = storm_of(restarted, tmp_path)
    record_property("storm", found.line("Redis killed and restarted (append-only file on)"))
    assert found.fulfils(extra=LIMIT), found


@pytest.mark.long
def test_outcomes_are_lost_where_a_result_does_not_wait_for_redis(tmp_path: Path) -> None:
    found = storm_of(restarted, tmp_path, "without_waiting_for_redis", within_s=LOST_WITHIN_S)
    assert not found.fulfils(extra=LIMIT), found


def test_nothing_is_lost_or_doubled_when_redis_pauses(tmp_path: Path, record_property: Told) -> None:
    found = storm_of(paused, tmp_path)
    record_property("storm", found.line("Redis paused for 20 s"))
    assert found.fulfils(extra=0), found


@pytest.mark.long
def test_workers_take_each_other_for_dead_where_nobody_notices_a_pause(tmp_path: Path) -> None:
    found = storm_of(paused, tmp_path, "without_witnesses", within_s=LOST_WITHIN_S)
    assert not found.fulfils(extra=0), found
    assert found.extra <= 2 * HELD
