"""The memory of the engines' host, in words."""

from collections.abc import Mapping
from typing import Any


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
