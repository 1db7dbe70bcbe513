"""The door between Celery and the event loop: a task decodes, calls one service and encodes."""

import inspect
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, TypeVar

import redis
import structlog
from celery import current_task, states
from celery.exceptions import Reject
from celery.result import AsyncResult
from kombu.exceptions import EncodeError, OperationalError
from redis.exceptions import RedisError

from aegis_workers import settings as settings_module
from aegis_workers import telemetry
from aegis_workers.dispatch import inputs, running
from aegis_workers.dispatch.delivery import Delivery
from aegis_workers.dispatch.running import Ran
from aegis_workers.errors import (
    AegisError,
    CallRevoked,
    ConfigurationError,
    DeadlineExceeded,
    InvalidInput,
    PutBack,
    SetAside,
    StreamInterrupted,
)
from aegis_workers.settings import Settings
from aegis_workers.state import aside, cancels, connection, envelope
from aegis_workers.state.aside import Entry
from aegis_workers.state.envelope import ENQUEUED_AT
from aegis_workers.telemetry import Ending, TaskBegun, TaskEnded
from aegis_workers.worker import brokerage, newer, poison, runtime, summary
from aegis_workers.worker.poison import Work
from aegis_workers.worker.request import QuietTask
from aegis_workers.worker.revoking import Revoked
from aegis_workers.worker.services import Services

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Door(QuietTask):
    """What every task here shares. `internal`: no caller enqueues it."""

    abstract = True
    internal = False
    throws = (AegisError,)

    @property
    def settings(self) -> Settings:
        """The settings of this process."""
        return settings_module.load()

    def check(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `run` as they will be sent; raises `InvalidInput` for what a worker would refuse."""
        return arguments

    def apply_async(
        self, args: Any = None, kwargs: Mapping[str, Any] | None = None, task_id: str | None = None, **options: Any
    ) -> AsyncResult:
        """Enqueue, after the check that the worker would make: bad input fails here and now, and nothing is sent.

        Raises `InvalidInput`, `RedisUnavailable` where Redis does not answer and `RedisFull` where it takes nothing in.
        """
        headers = {ENQUEUED_AT: time.time(), **(options.pop("headers", None) or {})}
        options |= {"task_id": task_id, "headers": headers}
        if "parent_id" in options:
            # Celery itself continues a workflow here, after a task that succeeded: an error now would fail that task, while
            # the worker's own check fails this one.
            return super().apply_async(args, kwargs, **options)
        arguments = self.check(self._bound(args or (), kwargs or {}))
        inputs.check_version(arguments["version"])
        with connection.explained(self.settings):
            # Celery would try for 20 s before it says that Redis is away.
            self._redis.ping()
        try:
            return super().apply_async((), arguments, **options)
        except EncodeError:
            raise InvalidInput("the arguments hold something that JSON cannot carry: send plain values") from None
        except OperationalError as error:
            raise connection.failure(self.settings, error) from None

    @cached_property
    def _redis(self) -> redis.Redis:
        return connection.open_sync(brokerage.settings_of(self.app))

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Refuses a message whose arguments are not those of `run`; what a newer version wrote goes back to its queue."""
        self._leave_to_newer(kwargs.get("version") if isinstance(kwargs, Mapping) else None)
        self._bound(args, kwargs)

    def _leave_to_newer(self, version: Any) -> None:
        if not inputs.is_newer(version):
            return
        process, queue = runtime.started(), str((self.request.delivery_info or {}).get("routing_key"))
        if process is None or not newer.is_left(version, self.request.headers, queue):
            inputs.check_version(version)
            return
        newer.say(queue)
        process.stops_within(newer.PAUSE_S)
        raise Reject("a newer version wrote this message", requeue=True)

    def _bound(self, args: Any, kwargs: Any) -> dict[str, Any]:
        signature = inspect.signature(self.run)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            raise InvalidInput(f"the arguments do not fit: {self.name} takes {', '.join(signature.parameters)}") from None
        bound.apply_defaults()
        return dict(bound.arguments)

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:  # noqa: ARG002 - Celery's signature
        """The outcome is recorded: what a later delivery would have needed is not."""
        process = runtime.started()
        if process is not None and status in states.READY_STATES:
            process.forget_answers(task_id)

    def carry_out(self, work: Callable[[Services], Coroutine[Any, Any, dict[str, Any]]]) -> dict[str, Any]:
        """The result of `work` on the event loop.

        The message goes back to its queue when the worker stops first; the task's state is REVOKED when its caller revokes it.
        """
        started = time.monotonic()
        process = runtime.start(self.settings, queue=str((self.request.delivery_info or {}).get("routing_key")))
        try:
            with self._told():
                result, ran = process.run(partial(_traced, work), self.delivery.task_id)
        except PutBack as error:
            raise Reject(str(error), requeue=True) from None
        except CallRevoked as error:
            raise Revoked(terminated=error.terminated) from None
        except SetAside as error:
            self._set_aside([poison.entry(self._work, 0, [{"what": str(error)}])])
            raise
        self._set_aside(poison.of_result(self._work, result))
        self.summaries[self.request.id] = summary.line(result, ran, time.monotonic() - started)
        return result

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tells of a delivery's begin and end."""
        name = str(self.name)
        telemetry.tell(TaskBegun(task=name, again=self.delivery.again))
        try:
            yield
        except BaseException as error:
            telemetry.tell(TaskEnded(task=name, ending=_ending(error)))
            raise
        telemetry.tell(TaskEnded(task=name, ending=Ending.DONE))

    def unless_revoked(self, client: redis.Redis) -> None:
        """Ends a task that does its work here, and not on the event loop, if it was revoked while it waited in its queue."""
        if cancels.find(client, str(self.request.id)) is not None:
            raise Revoked(terminated=False)

    def _set_aside(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            log.warning("call.set_aside", id=entry.entry_id, task=entry.task)
            try:
                aside.put(self._redis, entry)
            except (RedisError, OSError) as error:  # its outcome says it too
                log.warning("call.not_listed", id=entry.entry_id, error=repr(error))

    @property
    def _work(self) -> Work:
        queue = str((self.request.delivery_info or {}).get("routing_key"))
        kwargs = self._bound(self.request.args or (), self.request.kwargs or {})
        return Work(task_id=str(self.request.id), task=str(self.name), queue=queue, kwargs=kwargs)

    @property
    def delivery(self) -> Delivery:
        """The delivery at hand. A workflow of Celery's own runs this task inside another, whose message it then is."""
        request = current_task.request
        again = bool((request.delivery_info or {}).get("redelivered"))
        headers = request.headers if isinstance(request.headers, Mapping) else {}
        return Delivery(task_id=str(request.id), again=again, deaths=len(envelope.deaths(headers)))

    @property
    def enqueued_at(self) -> float | None:
        """When the message was enqueued, in epoch seconds; None where its producer did not say."""
        headers = self.request.headers
        value = headers.get(ENQUEUED_AT) if isinstance(headers, Mapping) else None
        return float(value) if isinstance(value, int | float) else None


# What a task is ended by; the first kind that fits.
_ENDINGS: Mapping[type[AegisError], Ending] = {
    PutBack: Ending.PUT_BACK,
    CallRevoked: Ending.REVOKED,
    SetAside: Ending.SET_ASIDE,
    DeadlineExceeded: Ending.EXPIRED,
    StreamInterrupted: Ending.INTERRUPTED,
    ConfigurationError: Ending.REFUSED,
    InvalidInput: Ending.REFUSED,
}


def _ending(error: BaseException) -> Ending:
    return next((ending for kind, ending in _ENDINGS.items() if isinstance(error, kind)), Ending.FAILED)


async def _traced(
    work: Callable[[Services], Coroutine[Any, Any, dict[str, Any]]], services: Services
) -> tuple[dict[str, Any], Ran]:
    """The result of the task at hand, and where its calls ran."""
    result = await work(services)
    return result, running.current().ran
