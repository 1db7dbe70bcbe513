"""Which call of which task this is: the same in every delivery of the task's message."""

from dataclasses import dataclass

from aegis_workers.routing import Engine

# A message that saw this many workers die may be what kills them: its items run one at a time.
DEATHS_OF_A_SUSPECT = 2


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One delivery of a task's message. `again`: it had been delivered before, and may have got somewhere.

    `deaths`: how many workers died while they held it. `of_job`: it is a batch of a bulk job. `only`: the engine that this stays
    on.
    """

    task_id: str
    again: bool = False
    deaths: int = 0
    of_job: bool = False
    only: Engine | None = None

    @property
    def is_suspect(self) -> bool:
        """Whether its items run alone."""
        return self.deaths >= DEATHS_OF_A_SUSPECT

    def call(self, number: str = "0") -> "CallId":
        """The task's call of this number."""
        return CallId(
            task_id=self.task_id, number=number, again=self.again, alone=self.is_suspect, of_job=self.of_job, only=self.only
        )


@dataclass(frozen=True, kw_only=True)
class CallId:
    """The name of a call, by which its slot is leased. `again`: an earlier delivery may still have a slot under it.

    `alone`: no other suspect runs beside it, whatever it is suspected of. `of_job`: its batch says in one line what came of all.
    `only`: it may run on no other engine.
    """

    task_id: str
    number: str
    again: bool = False
    alone: bool = False
    of_job: bool = False
    only: Engine | None = None

    def __str__(self) -> str:
        return f"{self.task_id}:{self.number}"
