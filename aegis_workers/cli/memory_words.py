"""The memory of the engines' host, in words and as plain values."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aegis_workers.state.memory import Memory


def values(memory: "Memory | None") -> dict[str, Any] | None:
    """What `--json` prints of it; None where no controller measures it."""
    return None if memory is None else asdict(memory)


def line(memory: Mapping[str, Any] | None) -> str:
    """One line of what was measured."""
    if memory is None:
        return "not measured (a controller that leads does so)"
    both = "room for both engines" if memory["room_for_both"] else "no room for both engines"
    why = f": {memory['why']}" if memory["why"] else ""
    return f"{_amount(memory)} ({memory['source']}); {both}{why}"


def _amount(memory: Mapping[str, Any]) -> str:
    free, total = memory["free_gb"], memory["total_gb"]
    if free is None:
        return "not measurable"
    return f"{free:.1f} GB free" if total is None else f"{free:.1f} of {total:.1f} GB free"
