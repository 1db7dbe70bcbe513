"""Celery's side of this process as the event loop sees it: does it turn, what has it taken, what does it hold?"""

import time
from typing import Any

from celery import bootsteps, signals
from celery.worker import state
from celery.worker.consumer.tasks import Tasks

from aegis_workers.worker import ending, holdings
from aegis_workers.worker.signs import Signs

BEAT_S = 0.5

# Of these a message that was taken sends one.
_TAKEN = (signals.task_received, signals.task_unknown, signals.task_rejected, signals.task_revoked)


class Pulse(bootsteps.StartStopStep):
    """Notes that Celery's main loop turns. Its timers end with a connection: what is silent may just be connecting."""

    requires = (Tasks,)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.node = str(parent.hostname)
        self._consumer = parent
        self._inline = parent.pool.__class__.__module__.endswith(".solo")
        self._turned_at = time.monotonic()
        self._connected = False
        self._taken = 0
        for signal in _TAKEN:
            signal.connect(self._note_taken, weak=False)
        _pulses[:] = [self]

    def register_with_event_loop(self, parent: Any, hub: Any) -> None:  # noqa: ARG002 - Celery's signature
        """The consumer has its connection, and its loop is about to turn."""
        self._turn()
        self._connected = True
        hub.call_repeatedly(BEAT_S, self._turn)

    def stop(self, parent: Any) -> None:  # noqa: ARG002
        """The connection is lost, or the worker stops. Whoever tries to connect again and again does not hang."""
        self._turn()
        self._connected = False

    def signs(self, *, queued: int | None, answering_since: float | None) -> Signs:
        """What this process shows now, beside what Redis said. One that gave no messages has begun to answer after that."""
        now, held = time.monotonic(), holdings.current()
        refused_until = float("-inf") if held is None else held.refused_until
        return Signs(
            at=now,
            turned_at=self._turned_at,
            connected=self._connected,
            queues=self.queues,
            taken=self._taken,
            held=max(len(state.requests), held.count if held else 0),
            refused=refused_until >= now,
            stopping=self._is_stopping(),
            failed=ending.has_begun(),
            inline=self._inline,
            queued=queued,
            answering_since=None if answering_since is None else max(answering_since, refused_until),
        )

    @property
    def queues(self) -> tuple[str, ...]:
        """What it consumes from now: an operator may have cancelled a queue."""
        return tuple(self._consumer.app.amqp.queues.consume_from)

    def _is_stopping(self) -> bool:
        told = any(flag is not None and flag is not False for flag in (state.should_stop, state.should_terminate))
        return told or self._consumer.controller.blueprint.state != bootsteps.RUN

    def _turn(self) -> None:
        self._turned_at = time.monotonic()

    def _note_taken(self, **_: Any) -> None:
        self._taken += 1


_pulses: list[Pulse] = []


def current() -> Pulse | None:
    """The pulse of this process's worker; None in a process that consumes nothing."""
    return _pulses[0] if _pulses else None
