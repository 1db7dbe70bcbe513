"""When the events of tasks are published: together, not one by one."""

from typing import Any

from celery import bootsteps
from celery.worker.consumer.events import Events

INTERVAL_S = 0.5


class EventTimer(bootsteps.StartStopStep):
    """Publishes the events of tasks every `INTERVAL_S`, and whenever Celery's buffer of 24 is full.

    Celery does so at every turn of its loop, which costs more than receiving the task.
    """

    requires = (Events,)

    def start(self, parent: Any) -> None:
        """The dispatcher has just been made, at the start and after a lost connection."""
        parent.event_dispatcher.on_send_buffered = None

    def register_with_event_loop(self, parent: Any, hub: Any) -> None:
        """The timer ends with the connection."""
        hub.call_repeatedly(INTERVAL_S, parent.event_dispatcher.flush)

    def shutdown(self, parent: Any) -> None:
        """What the last tasks said, before the connection is closed."""
        if parent.event_dispatcher is not None:
            parent.event_dispatcher.flush()
