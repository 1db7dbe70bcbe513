"""Which call of which task this is: the same in every delivery of the task's message."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One delivery of a task's message. `again`: it had been delivered before, and may have got somewhere."""

    task_id: str
    again: bool = False

    def call(self, number: str = "0") -> "CallId":
        """The task's call of this number."""
        return CallId(task_id=self.task_id, number=number, again=self.again)


@dataclass(frozen=True, kw_only=True)
class CallId:
    """The name of a call, by which its slot is leased. `again`: an earlier delivery may still have a slot under it."""

    task_id: str
    number: str
    again: bool = False

    def __str__(self) -> str:
        return f"{self.task_id}:{self.number}"
