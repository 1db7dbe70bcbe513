"""One event loop a worker process: everything about a call happens on it, and task threads wait at its door."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, TypeVar

import structlog
from anyio.from_thread import start_blocking_portal

from aegis_workers.errors import WorkerStopping
from aegis_workers.settings import Settings
from aegis_workers.state import connection
from aegis_workers.state.cancels import Cancel
from aegis_workers.worker import condition, ending, holdings, services
from aegis_workers.worker.services import Services
from aegis_workers.worker.stop import Stop

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Runtime:
    """The event loop, in a thread of its own, and the calls that task threads have running on it."""

    def __init__(self, settings: Settings, queue: str) -> None:
        self._settings = settings
        self._capacity = settings.capacity()
        self._running: set[Future[Any]] = set()
        self._stopping = threading.Event()
        self._stack = ExitStack()
        self._portal = self._stack.enter_context(start_blocking_portal("asyncio"))
        self._loop = self._portal.call(asyncio.get_running_loop)
        self._services = self._stack.enter_context(self._portal.wrap_async_context_manager(services.opened(settings, queue)))
        self._stop = Stop(
            grace_s=settings.shutdown_grace_s,
            close_admission=self._close_admission,
            close_calls=self.cancel_running,
            await_end=self._await_end,
        )

    def run(self, work: Callable[[Services], Coroutine[Any, Any, T]], task_id: str) -> T:
        """The result of `work`, carried out on the loop as the task with this id while this thread waits.

        Raises what `work` raises, `WorkerStopping` when the worker stops first, and `CallRevoked` when the task is revoked:
        `work` is then cancelled, which closes its requests at the engine.
        """
        if self._stopping.is_set():
            raise WorkerStopping("the worker is stopping")
        # The portal's own way to start a task waits for the loop once more: 0.1 ms a call.
        with structlog.contextvars.bound_contextvars(task=task_id):  # the work begins in a copy of this context
            future = asyncio.run_coroutine_threadsafe(self._carry_out(work, task_id), self._loop)
        self._running.add(future)
        try:
            return future.result()
        except CancelledError:
            raise WorkerStopping("the worker is stopping") from None
        finally:
            self._running.discard(future)

    async def _carry_out(self, work: Callable[[Services], Coroutine[Any, Any, T]], task_id: str) -> T:
        services = self._services
        return await services.tasks.carry_out(task_id, lambda: work(services))

    def cancel(self, task_ids: Iterable[str], cancel: Cancel) -> None:
        """Mark the tasks as cancelled, and end those that run here. Returns at once."""
        self._portal.start_task_soon(self._services.tasks.cancel, set(task_ids), cancel)

    @property
    def has_room(self) -> bool:
        """Whether more calls may be taken on, beside those in messages that were just taken."""
        held = holdings.current()
        coming = 0 if held is None else held.coming.count
        return self._services.admission.load + coming < self._capacity

    def forget_answers(self, task_id: str) -> None:
        """The task is done: nobody will ask for what its calls had come to."""
        self._loop.call_soon_threadsafe(self._services.answers.forget, task_id)

    def begin_stop(self, *, at_once: bool = False) -> None:
        """Ends the calls that wait, now, and those in flight when the grace is over. Returns at once, and may be called anywhere.

        With `at_once`, and when told a second time, those in flight have no grace.
        """
        self._stop.begin(at_once=at_once)

    def _await_end(self) -> None:
        ending.await_end(partial(connection.is_silent, self._settings), partial(condition.withdraw, self._settings.health_dir))

    def _close_admission(self) -> None:
        with suppress(RuntimeError):  # the loop has ended, and nothing waits for admission any more
            self._portal.call(self._services.admission.close)

    def cancel_running(self) -> None:
        """Closes every call that is still running."""
        self._stopping.set()
        running = [future for future in list(self._running) if not future.cancelled()]
        if running:
            log.warning("calls.put_back", count=len(running))
        for future in running:
            future.cancel()

    def stops_within(self, seconds: float) -> bool:
        """Waits so long, or until the grace of a worker that was told to stop is over; says whether it is."""
        return self._stopping.wait(seconds)

    def close(self) -> None:
        """Ends the loop; what still runs is cancelled first."""
        self.cancel_running()
        self._stack.close()


_current: tuple[int, Runtime] | None = None
_starting = threading.Lock()


def start(settings: Settings, queue: str) -> Runtime:
    """This process's runtime, started at the first call."""
    global _current  # noqa: PLW0603 - Celery gives a task no other place to find what its process holds
    with _starting:
        if _current is None or _current[0] != os.getpid():  # a forked child has the parent's variable but not its loop
            _current = (os.getpid(), Runtime(settings, queue))
        return _current[1]


def started() -> Runtime | None:
    """This process's runtime, if it has one."""
    return _current[1] if _current is not None and _current[0] == os.getpid() else None
