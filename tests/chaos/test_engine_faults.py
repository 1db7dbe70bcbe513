"""Engines that die, hang, refuse or break off in the midst of a storm of calls."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import storm
from installation import eventually
from storm import LIMIT, Aftermath, Storm

from aegis_workers.routing import Engine
from aegis_workers.state import keys

pytestmark = pytest.mark.timeout(180)

# Calls that meet a fault of the engine's own; as many as are in flight when it begins.
MET = LIMIT
# The calls with which the prober sees that an engine which came back generates.
PROOFS = 3


def killed_and_brought_back(calls: Storm) -> None:
    """The engine dies and comes back, once the workers know."""
    place = calls.place
    calls.asked_before += storm.asked(place.stats(Engine.VLLM))
    place.kill_engine(Engine.VLLM)
    eventually(lambda: place.redis.hget(keys.engine(Engine.VLLM), "state") == "unavailable")
    place.bring_back(Engine.VLLM)


def behaving(**behaviour: Any) -> Callable[[Storm], None]:
    """A fault of the simulator's own."""
    return lambda calls: calls.place.behave(Engine.VLLM, **behaviour)


FAULTS = {
    "an engine is killed and comes back": killed_and_brought_back,
    "an engine hangs": behaving(hang=True, times=MET),
    "an engine answers 503 half of the time": behaving(error_status=503, error_rate=0.5),
    "an engine drops the connection in the middle of an answer": behaving(drop_after_chunks=2, times=MET),
}


def storm_with(fault: str, folder: Path, *mechanisms_off: str) -> Aftermath:
    with storm.hold(folder, *mechanisms_off) as place:
        calls = storm.begin(place)
        calls.strike(FAULTS[fault])
        return calls.aftermath()


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_or_doubled_when(fault: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    found = storm_with(fault, tmp_path)
    record_property("storm", found.line(fault))
    assert found.fulfils(extra=MET + PROOFS), found


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=[pytest.mark.long] if number else []) for number, fault in enumerate(FAULTS)]
)
def test_calls_fail_without_another_attempt_when(fault: str, tmp_path: Path) -> None:
    assert storm_with(fault, tmp_path, "without_retries").failed > 0
