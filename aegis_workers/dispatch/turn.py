"""One turn of the pump that admits calls: what was read for it, and who asks for which engine because of that."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from aegis_workers import telemetry
from aegis_workers.dispatch.lines import Waiter
from aegis_workers.routing import Decision, Engine, Lane, Run, TaskType
from aegis_workers.state.engine_status import Statuses
from aegis_workers.state.mode import ModeReading
from aegis_workers.state.slots import Exchange, Held, Outcome
from aegis_workers.telemetry import SlotsExchanged

Decide = Callable[[TaskType, ModeReading, Statuses, Engine | None], Decision]


class Ledger(Protocol):
    """Where the slots of all workers are counted; `state.slots.Slots` in a worker."""

    def now_ms(self) -> int: ...

    async def exchange(self, asked: Exchange) -> Outcome: ...

    async def refresh(self, held: Held) -> None: ...


async def exchanged(ledger: Ledger, asked: Exchange) -> Outcome:
    """What the ledger answers; how long it took is told of."""
    began = time.monotonic()
    outcome = await ledger.exchange(asked)
    took_s = time.monotonic() - began
    telemetry.tell(SlotsExchanged(engine=asked.engine, took_s=took_s, refusals=outcome.refusals.values()))
    return outcome


@dataclass
class Turn:
    """What was read, and who asks."""

    mode: ModeReading
    statuses: Statuses
    asking: dict[Engine, list[tuple[Waiter, Run]]] = field(default_factory=lambda: {engine: [] for engine in Engine})
    _decisions: dict[tuple[TaskType, Engine | None], Decision] = field(default_factory=dict)

    def decision(self, waiter: Waiter, decide: Decide) -> Decision:
        """Where calls like this one go; it is decided once."""
        kind = (waiter.task_type, waiter.call.only)
        if kind not in self._decisions:
            self._decisions[kind] = decide(waiter.task_type, self.mode, self.statuses, waiter.call.only)
        return self._decisions[kind]

    def in_order(self, engine: Engine) -> list[tuple[Waiter, Run]]:
        """Who asks for the engine: chats first, and who waited longest first, whichever lines they stand in."""
        return sorted(self.asking[engine], key=lambda asked: (asked[0].lane is Lane.BULK, asked[0].since))
