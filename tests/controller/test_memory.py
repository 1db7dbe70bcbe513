"""Where memory is measured, what is said of it, and what is said where that cannot be."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aegis_workers.controller import memory
from aegis_workers.controller.equipment import HostGauge
from aegis_workers.controller.memory import Memory, NotMeasured

SPARK = "MemTotal:       125441024 kB\nMemFree:         1024000 kB\nMemAvailable:   100000000 kB\nHugePages_Total:       0\n"


class NVMLError(Exception):
    pass


class NVMLErrorNotSupported(NVMLError):
    pass


Install = Callable[..., None]


@pytest.fixture
def install_nvml(monkeypatch: pytest.MonkeyPatch) -> Install:
    """`install_nvml(GB free of each GPU, of 80; None where it tells no memory)`, or `fails=` at the start."""

    def install(gpus_gb: Sequence[float | None], *, fails: bool = False) -> None:
        def begin() -> None:
            if fails:
                raise NVMLError("Driver Not Loaded")

        def info(device: float | None) -> Any:
            if device is None:
                raise NVMLErrorNotSupported("Not Supported")
            return SimpleNamespace(total=80 * 10**9, free=device * 10**9)

        module = SimpleNamespace(
            NVMLError=NVMLError,
            NVMLError_NotSupported=NVMLErrorNotSupported,
            nvmlInit=begin,
            nvmlDeviceGetCount=lambda: len(gpus_gb),
            nvmlDeviceGetHandleByIndex=lambda number: gpus_gb[number],
            nvmlDeviceGetMemoryInfo=info,
        )
        monkeypatch.setitem(sys.modules, "pynvml", module)

    monkeypatch.setattr(memory, "_open", memory._open.__wrapped__)
    return install


@pytest.fixture
def meminfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "meminfo"
    path.write_text(SPARK)
    monkeypatch.setattr(memory, "_MEMINFO", path)
    return path


def test_the_memory_of_several_gpus_is_added_up(install_nvml: Install) -> None:
    install_nvml([10.0, 20.0])
    assert (
        memory.measure("nvml") == memory.measure("auto") == Memory(total_gb=160.0, free_gb=30.0, source="NVML, 2 GPUs", by="nvml")
    )


def test_the_memory_of_the_host_counts_in_units_of_a_thousand(meminfo: Path) -> None:
    found = memory.measure("meminfo")
    assert found.source == str(meminfo)
    assert (round(found.total_gb, 1), round(found.free_gb, 1)) == (128.5, 102.4)


def test_the_host_of_the_tests_has_memory() -> None:
    found = memory.measure("meminfo")
    assert 0 < found.free_gb < found.total_gb


@pytest.mark.parametrize(
    ("gpus_gb", "fails", "why"),
    [
        ([None], False, "NVML gives no GPU memory"),
        ([], False, "NVML gives no GPU memory"),
        ([], True, "NVML gives no GPU (Driver"),
    ],
)
def test_a_gpu_without_memory_of_its_own_has_the_host_s_and_which_was_used_is_said(
    gpus_gb: Sequence[None],
    fails: bool,  # noqa: FBT001 - a parameter of the table
    why: str,
    meminfo: Path,
    install_nvml: Install,
) -> None:
    install_nvml(gpus_gb, fails=fails)
    assert memory.measure("auto").source.startswith(f"{meminfo} ({why}")
    with pytest.raises(NotMeasured, match="AEGIS_MEMORY_SOURCE=meminfo"):
        memory.measure("nvml")


def test_a_host_without_the_extra_measures_its_own_memory(meminfo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert memory.measure("auto").source == f"{meminfo} (NVML is not installed)"
    with pytest.raises(NotMeasured, match=r"pip install 'aegis-workers\[gpu\]'"):
        memory.measure("nvml")


def test_where_nothing_works_both_reasons_are_said(meminfo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meminfo.write_text("MemTotal: 5 kB\n")
    with pytest.raises(NotMeasured, match=r"NVML is not installed.*meminfo cannot be read.*AEGIS_MEMORY_BUDGET_GB"):
        memory.measure("auto")


def test_a_file_says_what_there_is_and_may_hold_more(tmp_path: Path) -> None:
    path = tmp_path / "pool.json"
    path.write_text('{"total_gb": 100, "free_gb": 40.5, "held": {"vllm": 59.5}}')
    assert memory.measure(str(path)) == Memory(total_gb=100.0, free_gb=40.5, source=str(path), by=str(path))


@pytest.mark.parametrize(
    "content", ["", "[]", '{"total_gb": 1}', '{"total_gb": 1, "free_gb": -1}', '{"total_gb": 1, "free_gb": NaN}']
)
def test_a_file_that_says_something_else_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "pool.json"
    path.write_text(content)
    with pytest.raises(NotMeasured, match=r"pool\.json is no JSON object with the numbers total_gb and free_gb"):
        memory.measure(str(path))
    path.unlink()
    with pytest.raises(NotMeasured, match=r"pool\.json cannot be read \(No such file"):
        memory.measure(str(path))


@pytest.mark.anyio
async def test_a_gauge_stays_with_what_it_has_chosen(install_nvml: Install, meminfo: Path) -> None:
    install_nvml([10.0])
    gauge = HostGauge("auto")
    assert (await gauge.measure()).free_gb == 10.0
    install_nvml([], fails=True)
    found = await gauge.measure()
    assert (found.free_gb, found.total_gb, found.source) == (None, None, "NVML, a GPU")
    assert "AEGIS_MEMORY_SOURCE=meminfo" in found.why
    install_nvml([20.0])
    assert (await gauge.measure()).free_gb == 20.0
    assert (await HostGauge("auto").measure()).source == "NVML, a GPU"
    assert (await HostGauge("meminfo").measure()).source == str(meminfo)


@pytest.mark.anyio
async def test_a_gauge_without_gpus_stays_with_the_memory_of_the_host(install_nvml: Install, meminfo: Path) -> None:
    install_nvml([None])
    gauge = HostGauge("auto")
    first = await gauge.measure()
    install_nvml([10.0])
    assert await gauge.measure() == first
    assert first.source == f"{meminfo} (NVML gives no GPU memory)"
