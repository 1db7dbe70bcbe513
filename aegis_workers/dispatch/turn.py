"""One turn of the pump that admits calls: what was read for it, and who asks for which engine because of that."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from aegis_workers.dispatch.lines import Waiter
from aegis_workers.routing import Decision, Engine, Run, TaskType
from aegis_workers.state.engine_status import Statuses
from aegis_workers.state.mode import ModeReading
from aegis_workers.state.slots import Exchange, Held, Outcome


class Ledger(Protocol):
    """Where the slots of all workers are counted; `state.slots.Slots` in a worker."""

    def now_ms(self) -> int: ...

    async def exchange(self, asked: Exchange) -> Outcome: ...

    async def refresh(self, held: Held) -> None: ...


@dataclass
class Turn:
    """What was read, and who asks."""

    mode: ModeReading
    statuses: Statuses
    asking: dict[Engine, list[tuple[Waiter, Run]]] = field(default_factory=lambda: {engine: [] for engine in Engine})
    _decisions: dict[TaskType, Decision] = field(default_factory=dict)

    def decision(self, task_type: TaskType, decide: Callable[[TaskType, ModeReading, Statuses], Decision]) -> Decision:
        """Where calls of this type go; it is decided once."""
        if task_type not in self._decisions:
            self._decisions[task_type] = decide(task_type, self.mode, self.statuses)
        return self._decisions[task_type]
