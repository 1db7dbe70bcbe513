"""Calls in messages that were taken a moment ago: they wait for no slot yet, and a worker that forgot them took too many."""

from collections.abc import Mapping
from typing import Any

from aegis_workers.dispatch.inputs import MAX_BATCH_ITEMS

# Header: how many calls a message holds. Of a batch whose producer does not say it, as many as it may hold.
CALLS = "aegis_calls"
_BATCHES = frozenset({"aegis.extract_batch", "aegis.read_chunks"})


class Coming:
    """By task: the calls in its message, until the first of them waits for its slot. Threads and the event loop use it alike."""

    def __init__(self) -> None:
        self._calls: dict[str, int] = {}

    @property
    def count(self) -> int:
        """The calls of all tasks."""
        return sum(list(self._calls.values()))

    def taken(self, headers: Mapping[str, Any]) -> str:
        """The message with these headers was taken; the id of its task."""
        task_id = str(headers.get("id"))
        if headers.get("eta") is None:  # else its moment may be far away
            self._calls[task_id] = _calls(headers)
        return task_id

    def over(self, task_id: str) -> None:
        """Its calls are counted by those who carry them out, or it has none."""
        self._calls.pop(task_id, None)


def _calls(headers: Mapping[str, Any]) -> int:
    said, most = headers.get(CALLS), MAX_BATCH_ITEMS if headers.get("task") in _BATCHES else 1
    return min(said, most) if isinstance(said, int) and said > 0 else most
