"""Celery's consumer, with messages that the process holds and not the connection."""

from time import sleep
from typing import Any

import structlog
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer

from aegis_workers.worker import holdings, newer, transport
from aegis_workers.worker.holdings import Holdings

log = structlog.get_logger(__name__)


class Consumer(CeleryConsumer):
    """Takes the messages of one queue."""

    def __init__(self, *args: Any, **options: Any) -> None:
        found = holdings.current()
        assert found is not None  # noqa: S101 - a step of the worker has begun it
        self._held: Holdings = found
        super().__init__(*args, **options)

    def connect(self) -> Any:
        """The connection from which tasks are taken; tries until Redis answers, and takes in what a consumer tells it then."""
        like = self.app.connection_for_read(heartbeat=self.amqheartbeat)
        connection = self.ensure_connected(transport.connection(like, self._held))
        self._await_room()
        if self.hub:
            connection.transport.register_with_event_loop(connection.connection, self.hub)
        return connection

    def _await_room(self) -> None:
        """A full Redis would refuse the first thing that it is told, and Celery connect anew as fast as it can."""
        while not self._held.may_connect():
            state.maybe_shutdown()
            sleep(transport.REFUSED_S)

    def call_soon_ack(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Settles a message in the thread that is done with it, and wakes the loop, which may take another one."""
        p(*args, **kwargs)
        if self.hub:
            self.hub.call_soon(_look_for_room)
        return p

    def on_close(self) -> None:
        """A connection was lost: tasks that run go on, those that wait for their moment are given back."""
        waiting = [request for request in tuple(state.scheduled_requests) if not _is_in_hand(request)]
        super().on_close()
        for request in waiting:
            self._held.let_go(request.message.delivery_tag)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A task that only a newer version has goes back to its queue; any other fails, as Celery has it."""
        queue, headers = self._held.holder.queue, message.headers
        if not newer.is_task_left(headers.get("task"), headers, queue):
            super().on_unknown_task(body, message, exc)
            return
        newer.say(queue)
        self.timer.call_after(newer.PAUSE_S, message.reject_log_error, (log, self.connection_errors, True))

    def add_task_queue(self, queue: Any, *args: Any, **options: Any) -> None:
        """Remote control may make the worker take up its own queue again, and no other."""
        if queue != self._held.holder.queue:
            log.warning("queue.refused", queue=self._held.holder.queue, reason="a worker takes from one queue")
            return
        super().add_task_queue(queue, *args, **options)


def _is_in_hand(request: Any) -> bool:
    return request in state.active_requests or request in state.reserved_requests


def _look_for_room() -> None:
    """Wakes the loop, which then sees for itself."""
