"""Celery's view of a task, with everything that a caller wrote taken out of events, logs and remote control.

Every task of the application is seen so, Celery's own ones too: `celery.map` and its like carry the same texts.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from celery import Celery, Task
from celery.exceptions import InvalidTaskError
from celery.worker import strategy as celery_strategy
from celery.worker.request import Request
from kombu.exceptions import ContentDisallowed, DecodeError

from aegis_workers.errors import InvalidInput
from aegis_workers.state.cancels import Cancel
from aegis_workers.worker import revoking, runtime
from aegis_workers.worker.revoking import Revoked

HIDDEN = "-"

# What a message raises that is not of Celery's form. Celery expects none of them, and its worker would die of it; the message
# would go back to the queue and end the next worker as well.
_MALFORMED = (AttributeError, LookupError, TypeError, ValueError)

_CLASS = re.compile(r"[A-Za-z_]\w*(?=\()")


class QuietApp(Celery):
    """An application whose producers publish no arguments beside the message itself, and whose revocations last."""

    control_cls = "aegis_workers.worker.revoking:Control"
    log_cls = "aegis_workers.worker.logs:AppLogging"

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Enqueue by name; every other way to enqueue ends here too."""
        return super().send_task(name, args, kwargs, **{**options, "argsrepr": HIDDEN, "kwargsrepr": HIDDEN})


class QuietTask(Task):
    """The base of every task. `summaries` holds, by task id, what events may show of a result until its event is sent."""

    abstract = True
    Request = "aegis_workers.worker.request:QuietRequest"
    Strategy = "aegis_workers.worker.request:strategy"
    resultrepr_maxsize = 1  # shown nowhere, and a longer one costs a tenth of a millisecond
    summaries: ClassVar[dict[str, str]] = {}


class QuietRequest(Request):
    """Shows a task by its name, its id and a summary that the task itself gives; never by its arguments or result."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not (isinstance(self.id, str) and isinstance(self.args, list | tuple) and isinstance(self.kwargs, dict)):
            raise InvalidTaskError("its id or its arguments are not of the type that Celery sends")
        # A producer's own names and representations are its text as well.
        self.name = self.type
        self._argsrepr = self._kwargsrepr = HIDDEN
        self._request_dict |= {"argsrepr": HIDDEN, "kwargsrepr": HIDDEN, "shadow": None}

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name
        """The event as Celery would send it, less what a caller or an engine wrote."""
        super().send_event(type, **self._without_text(fields))

    def _without_text(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        shown = {
            name: value for name, value in fields.items() if name not in {"args", "kwargs", "result", "exception", "traceback"}
        }
        if "result" in fields:
            shown["result"] = self.task.summaries.pop(self.id, HIDDEN)
        if "exception" in fields:
            shown["exception"] = class_name(fields["exception"])
            shown["traceback"] = HIDDEN
        return shown

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:  # noqa: FBT001, FBT002
        """The end of a task that returned nothing. One that was revoked while it ran ends as Celery ends one that was not."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # Celery may wrap it with its traceback
        if isinstance(error, Revoked):
            self._announce_revoked(str(error), error.terminated, None, False)  # noqa: FBT003 - Celery's signature
            running = runtime.started()
            if running is not None:
                running.forget_answers(self.id)
        else:
            super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def terminate(self, pool: Any, signal: Any = None) -> None:  # noqa: ARG002 - Celery's signature
        """Closes the task's requests at the engine: there is no process to send a signal to."""
        revoking.end([self.id], Cancel.TERMINATE)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002
        """Celery's cold shutdown, for each task that runs: all go back to the queue at once."""
        running = runtime.started()
        if running is not None:
            running.begin_stop(at_once=True)

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002, FBT001, FBT002 - Celery's signature
        """What `inspect active` and its like may show."""
        return {**super().info(safe=True), "args": HIDDEN, "kwargs": HIDDEN}


def class_name(representation: Any) -> str:
    """The class in an exception's representation; what follows is its text. `HIDDEN` where it does not begin with a class."""
    found = _CLASS.match(str(representation))
    return found.group() if found else HIDDEN


def strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Celery's handler of messages for `task`; one that is malformed ends as a failure of its own, and the worker goes on."""
    handle = celery_strategy.default(task, app, consumer, **options)

    def handle_or_fail(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **more: Any) -> Any:
        try:
            return handle(message, body, ack, reject, callbacks, **more)
        except (*_MALFORMED, InvalidTaskError, ContentDisallowed, DecodeError) as error:
            _fail(app, message.headers.get("id"))
            raise InvalidTaskError(type(error).__name__) from None

    return handle_or_fail


def _fail(app: Any, task_id: Any) -> None:
    """Tells the producer, who would wait for the result for ever."""
    if isinstance(task_id, str):
        app.backend.mark_as_failure(task_id, InvalidInput("the message is malformed: enqueue with Celery's send_task, as JSON"))
