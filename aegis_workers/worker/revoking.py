"""Celery's `revoke` and `terminate`, made durable: what the producer sends, and what a worker does when it hears of it."""

from collections.abc import Iterable, Mapping
from typing import Any

from celery import bootsteps
from celery.app import control as celery_control
from celery.exceptions import Ignore
from celery.utils.functional import maybe_list
from celery.worker import state as worker_state
from celery.worker.consumer.control import Control as ControlStep
from kombu.exceptions import OperationalError

from aegis_workers.errors import RedisUnavailable
from aegis_workers.state import cancels, connection
from aegis_workers.state.cancels import Cancel
from aegis_workers.worker import brokerage, runtime


class Revoked(Ignore):
    """Ends a task in state REVOKED; its message is acknowledged. `terminated`: an engine may have had it."""

    def __init__(self, *, terminated: bool) -> None:
        super().__init__("terminated" if terminated else "revoked")
        self.terminated = terminated


class Control(celery_control.Control):
    """Celery's remote control, which leaves a mark in Redis of every task that it revokes.

    A broadcast reaches the workers that listen now. The mark reaches the one that takes the task later.
    """

    def broadcast(self, command: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Tell the workers; `revoke`, `terminate` and their command line all end here. Raises `RedisUnavailable` for these."""
        cancel = _meant(command, arguments or {})
        if cancel is None:
            return super().broadcast(command, arguments, **options)
        settings = brokerage.settings_of(self.app)
        with connection.explained(settings), connection.open_sync(settings) as client:
            cancels.mark(client, _ids((arguments or {}).get("task_id")), cancel)
        try:
            return super().broadcast(command, arguments, **options)
        except OperationalError as error:
            raise RedisUnavailable(connection.unavailable(settings, error)) from None


def _meant(command: str, arguments: Mapping[str, Any]) -> Cancel | None:
    """What a command of the remote control asks for; None for all that end no task by its id."""
    match command:
        case "terminate":
            return Cancel.TERMINATE
        case "revoke":
            return Cancel.TERMINATE if arguments.get("terminate") else Cancel.REVOKE
        case _:
            return None


def _ids(given: Any) -> list[str]:
    return [task_id for task_id in maybe_list(given) or [] if isinstance(task_id, str)]


class RevokeCommands(bootsteps.StartStopStep):
    """Answers `revoke` and `terminate` in place of Celery, in this worker alone.

    Celery would write the state of a task that another worker has at an engine, and cannot end one in a pool of threads.
    """

    requires = (ControlStep,)

    def start(self, parent: Any) -> None:
        """The remote control has just been started."""
        node = parent.blueprint[ControlStep.name].box.node
        node.handlers = {**node.handlers, "revoke": _revoke, "terminate": _terminate}


def _revoke(_: Any, task_id: Any, terminate: Any = False, **__: Any) -> dict[str, str]:  # noqa: FBT002 - Celery's signature
    return _carry_out(task_id, Cancel.TERMINATE if terminate else Cancel.REVOKE)


def _terminate(_: Any, task_id: Any, **__: Any) -> dict[str, str]:
    return _carry_out(task_id, Cancel.TERMINATE)


def _carry_out(task_id: Any, cancel: Cancel) -> dict[str, str]:
    task_ids = _ids(task_id)
    end(task_ids, cancel)
    return {"ok": f"{cancel.value}: {', '.join(task_ids)}"}


def end(task_ids: Iterable[str], cancel: Cancel) -> None:
    """Ends tasks that this worker has, as far as `cancel` goes, and marks them for every other one. Returns at once."""
    known = list(task_ids)
    # What Celery has received and not yet handed to a thread, or will receive: it looks here first.
    worker_state.revoked.update(known)
    running = runtime.started()
    if running is not None:
        running.cancel(known, cancel)
