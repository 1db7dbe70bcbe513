"""How much memory the engines of this host share, and how much of it is free now. A GB is 10^9 bytes."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from aegis_workers.errors import AegisError

_GB = 10**9
_KIB = 1024
_MEMINFO = Path("/proc/meminfo")


class NotMeasured(AegisError):
    """The memory could not be measured; the message says why, and what to set."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What there is in all and what is free now, in GB of 10^9 bytes; `source` says in words how that was found.

    `by`: what to measure by to find it in the same way again, also where it was found by `auto`.
    """

    total_gb: float
    free_gb: float
    source: str
    by: str


class _File(BaseModel):
    total_gb: float = Field(ge=0, allow_inf_nan=False)
    free_gb: float = Field(ge=0, allow_inf_nan=False)


def measure(source: str) -> Memory:
    """The memory by `source`: `nvml`, `meminfo`, the path of a JSON file, or `auto`, which is NVML where it gives any.

    The memory of several GPUs is added up. Blocks for some milliseconds. Raises `NotMeasured`.
    """
    match source:
        case "auto":
            return _first_that_works()
        case "nvml":
            return _by_nvml()
        case "meminfo":
            return _by_meminfo(_MEMINFO)
        case _:
            return _by_file(Path(source))


def _first_that_works() -> Memory:
    try:
        return _by_nvml()
    except NotMeasured as error:
        why_not = str(error)
    try:
        found = _by_meminfo(_MEMINFO)
    except NotMeasured as error:
        raise NotMeasured(f"{why_not}; {error}") from None
    return replace(found, source=f"{found.source} ({why_not.partition(': ')[0]})")


def _by_nvml() -> Memory:
    try:
        import pynvml  # noqa: PLC0415 - an extra
    except ImportError:
        raise NotMeasured("NVML is not installed: pip install 'aegis-workers[gpu]', or AEGIS_MEMORY_SOURCE=meminfo") from None
    try:
        _open(pynvml)
        found = [memory for memory in _of_gpus(pynvml) if memory is not None]
    except pynvml.NVMLError as error:
        raise NotMeasured(f"NVML gives no GPU ({error}): see that nvidia-smi works, or AEGIS_MEMORY_SOURCE=meminfo") from None
    if not found:  # where the GPU has the host's memory, NVML tells none
        raise NotMeasured("NVML gives no GPU memory: AEGIS_MEMORY_SOURCE=meminfo measures the host's memory")
    gpus = "a GPU" if len(found) == 1 else f"{len(found)} GPUs"
    total_bytes, free_bytes = sum(memory.total for memory in found), sum(memory.free for memory in found)
    return Memory(total_gb=total_bytes / _GB, free_gb=free_bytes / _GB, source=f"NVML, {gpus}", by="nvml")


@cache
def _open(nvml: Any) -> None:
    """Opens the library, once for the life of the process."""
    nvml.nvmlInit()


def _of_gpus(nvml: Any) -> list[Any]:
    return [_of_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(number)) for number in range(nvml.nvmlDeviceGetCount())]


def _of_gpu(nvml: Any, device: Any) -> Any:
    try:
        return nvml.nvmlDeviceGetMemoryInfo(device)
    except nvml.NVMLError_NotSupported:
        return None


def _by_meminfo(path: Path) -> Memory:
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        total_kib, free_kib = (int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise NotMeasured(
            f"{path} cannot be read ({error!r}): set AEGIS_MEMORY_BUDGET_GB, or a file as AEGIS_MEMORY_SOURCE"
        ) from None
    return Memory(total_gb=total_kib * _KIB / _GB, free_gb=free_kib * _KIB / _GB, source=str(path), by="meminfo")


def _by_file(path: Path) -> Memory:
    try:
        found = _File.model_validate_json(path.read_bytes())
    except OSError as error:
        raise NotMeasured(f"{path} cannot be read ({error.strerror}): correct AEGIS_MEMORY_SOURCE") from None
    except ValidationError:
        raise NotMeasured(
            f"{path} is no JSON object with the numbers total_gb and free_gb: correct AEGIS_MEMORY_SOURCE"
        ) from None
    return Memory(total_gb=found.total_gb, free_gb=found.free_gb, source=str(path), by=str(path))
