"""What is set aside of a task, so that it can be looked at and enqueued again: the whole, or the items of a batch that it was."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aegis_workers.errors import ErrorClass
from aegis_workers.state.aside import Entry


@dataclass(frozen=True, kw_only=True)
class Work:
    """A task as its producer enqueued it."""

    task_id: str
    task: str
    queue: str
    kwargs: Mapping[str, Any]

    @property
    def items(self) -> Sequence[Mapping[str, Any]]:
        """The items of a batch, or the chunks of a job's; none for any other task."""
        items = self.kwargs.get(self.many)
        return items if isinstance(items, list) else ()

    @property
    def many(self) -> str:
        """The argument that holds them."""
        return "chunks" if "chunks" in self.kwargs else "items"


def entry(work: Work, item: int, history: Sequence[Mapping[str, Any]]) -> Entry:
    """The item of this number, or the whole task where it is no batch."""
    kwargs, entry_id, custom_id = work.kwargs, work.task_id, None
    if work.items:
        kwargs, entry_id = {**kwargs, work.many: [work.items[item]]}, f"{work.task_id}:{item}"
        custom_id = str(work.items[item].get("custom_id"))
    return Entry(
        entry_id=entry_id,
        task=work.task,
        queue=work.queue,
        kwargs=kwargs,
        history=history,
        at=time.time(),
        custom_id=custom_id,
    )


def of_result(work: Work, result: Mapping[str, Any]) -> Iterator[Entry]:
    """The items that were set aside: those of which the lines in a batch's result say so, or the result of a job's chunks."""
    for number, line in enumerate(result.get("results", ())):
        error = line["error"]
        if error is not None and error["class"] == ErrorClass.POISON:
            yield entry(work, number, [{"what": error["message"]}])
    for found in result.get("set_aside", ()):
        yield entry(work, found["item"], [{"what": found["message"]}])
