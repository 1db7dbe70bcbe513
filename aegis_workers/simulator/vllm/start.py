"""How a vLLM starts, or does not: it takes its memory first, and says in its own words why it ends."""

from aegis_workers.simulator.memory import Memory
from aegis_workers.simulator.options import Options
from aegis_workers.simulator.pool import TooLittleFree

# The name under which the engine holds its memory.
WEIGHTS = "weights"

_ENDED = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
_NO_ROOM = (
    "ValueError: Free memory on device cuda:0 ({free:.2f}/{total:.2f} GiB) on startup is less than desired GPU memory "
    "utilization ({share:.2f}, {asked:.2f} GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
_CRASHED = "RuntimeError: CUDA error: an illegal memory access was encountered"


class StartFailed(Exception):
    """The engine ends while it starts; the words are the last lines of its output."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"ERROR [core.py] EngineCore failed to start.\n{cause}\n{_ENDED}")


def take_memory(memory: Memory) -> None:
    """What the engine does before all else. Raises `StartFailed` where too little is free."""
    try:
        memory.take(WEIGHTS)
    except TooLittleFree as lack:
        share = lack.asked_gb / lack.total_gb if lack.total_gb else 1.0
        cause = _NO_ROOM.format(free=lack.free_gb, total=lack.total_gb, share=share, asked=lack.asked_gb)
        raise StartFailed(cause) from None


def survive(options: Options) -> None:
    """Raises `StartFailed` where the options have this start fail."""
    marker = options.marker
    if options.crash_at_start == "always":
        raise StartFailed(_CRASHED)
    if options.crash_at_start == "once" and marker is not None and not marker.exists():
        marker.touch()
        raise StartFailed(_CRASHED)
