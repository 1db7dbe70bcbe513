"""Calls that hang, beside the event loop."""

import threading

import anyio
import pytest

from aegis_workers.controller import memory
from aegis_workers.controller.aside import Aside
from aegis_workers.controller.equipment import HostGauge

pytestmark = pytest.mark.anyio


async def test_a_call_that_hangs_keeps_one_thread_however_often_it_is_made() -> None:
    aside, goes_on, begun = Aside("test"), threading.Event(), []

    def hang() -> None:
        begun.append(threading.current_thread())
        goes_on.wait(20)

    with anyio.move_on_after(0.05):
        await aside.run(hang)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await aside.run(hang)
    assert len(begun) == 1
    assert begun[0].daemon  # the process ends without it
    goes_on.set()
    begun[0].join(20)
    assert await aside.run(lambda: 5) == 5


async def test_what_a_call_raises_is_raised_to_whoever_waits() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        await Aside("test").run(lambda: int("no number"))


async def test_a_measurement_that_hangs_keeps_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, begun = threading.Event(), []

    def hang(source: str) -> memory.Memory:
        begun.append(source)
        goes_on.wait(20)
        raise AssertionError

    monkeypatch.setattr(memory, "measure", hang)
    gauge = HostGauge("auto")
    with anyio.move_on_after(0.05):
        await gauge.measure()
    with pytest.raises(TimeoutError):
        await gauge.measure()
    goes_on.set()
    assert begun == ["auto"]
