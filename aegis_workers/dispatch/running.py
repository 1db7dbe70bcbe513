"""The tasks that run in this process: how far each has come, and how it is ended when its caller revokes it."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from aegis_workers.errors import CallRevoked
from aegis_workers.routing import Engine, Mode
from aegis_workers.state import cancels, connection
from aegis_workers.state.cancels import Cancel

log = structlog.get_logger(__name__)

T = TypeVar("T")

# The marks of tasks that begin within this time are read together, and not at all for those that end within it.
GATHER_S = 0.1


def _nobody(_task_id: str) -> None:
    """Where nobody has to know."""


@dataclass(frozen=True)
class Ran:
    """Where the calls of a task ended, and in which modes they were admitted: how many by each name, the first one first."""

    engines: Counter[Engine] = field(default_factory=Counter)
    modes: Counter[Mode] = field(default_factory=Counter)


class Running:
    """One task, from its start in this process to its end.

    It has begun while one of its calls is at an engine, and for good once one is done: from then on only `terminate` ends it.
    """

    def __init__(self, task_id: str, on_call: Callable[[str], None] = _nobody) -> None:
        self.task_id = task_id
        self._on_call = on_call
        self.revoked: CallRevoked | None = None
        self._work = asyncio.current_task()
        self._asked: Cancel | None = None
        self._at_engine = 0
        self._done = 0
        self.ran = Ran()

    def cancel(self, cancel: Cancel) -> None:
        """Ends the task now, or remembers that it was asked for: a call may yet come back from its engine to wait again."""
        self._asked = Cancel.TERMINATE if Cancel.TERMINATE in {cancel, self._asked} else cancel
        if self.revoked is None and self._is_due():
            self.revoked = revoked(self._asked)
            if self._work is not None:
                self._work.cancel()

    def check(self) -> None:
        """Raises `CallRevoked` where the task must go no further."""
        if self.revoked is None and self._asked is not None and self._is_due():
            self.revoked = revoked(self._asked)
        if self.revoked is not None:
            raise self.revoked

    @property
    def has_begun(self) -> bool:
        """Whether only `terminate` ends it."""
        return bool(self._at_engine or self._done)

    def _is_due(self) -> bool:
        return self._asked is Cancel.TERMINATE or not self.has_begun

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """A call of the task is at an engine for as long as the block runs. Raises `CallRevoked` if it may not go there."""
        self.check()
        self._at_engine += 1
        try:
            yield
        finally:
            self._at_engine -= 1

    def call_comes(self) -> None:
        """One call of the task asks for its slot; the others come with it or later."""
        self._on_call(self.task_id)

    def call_done(self, engine: Engine, mode: Mode) -> None:
        """One call of the task has its outcome."""
        self._done += 1
        self.ran.engines[engine] += 1
        self.ran.modes[mode] += 1


def revoked(cancel: Cancel) -> CallRevoked:
    """What a task ends with that `cancel` has ended."""
    if cancel is Cancel.TERMINATE:
        return CallRevoked("the task was terminated by its caller", terminated=True)
    return CallRevoked("the task was revoked by its caller before an engine had it", terminated=False)


_current: ContextVar[Running | None] = ContextVar("running", default=None)


def current() -> Running:
    """The task at hand; one that nobody can revoke where there is none, as in a script that uses the services directly."""
    return _current.get() or Running("")


def cause(error: BaseException) -> BaseException:
    """Why the task at hand ends: what it was revoked with, else `error` itself."""
    return current().revoked or error


class Tasks:
    """The tasks of this process by their ids, and the marks in Redis that end them.

    `on_call` is told the id of a task when a call of it asks for its slot.
    """

    def __init__(self, client: redis.asyncio.Redis, on_call: Callable[[str], None] = _nobody) -> None:
        self._client = client
        self._on_call = on_call
        self._running: defaultdict[str, set[Running]] = defaultdict(set)
        self._unread: set[str] = set()
        self._changed = asyncio.Event()

    async def carry_out(self, task_id: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `work`, the task with this id. Raises `CallRevoked` when the task is revoked in time."""
        running = Running(task_id, self._on_call)
        self._running[task_id].add(running)
        token = _current.set(running)
        try:
            # Whoever revokes writes the mark first, then tells: a task that is entered before it is looked for misses neither.
            # Nobody waits for the look: the mark is read once more when a slot is taken.
            self._look_soon(task_id)
            return await work()
        except asyncio.CancelledError:
            if running.revoked is None:
                raise
            raise running.revoked from None
        finally:
            _current.reset(token)
            self._running[task_id].discard(running)
            if not self._running[task_id]:
                del self._running[task_id]

    def _look_soon(self, task_id: str) -> None:
        if not self._unread:
            asyncio.get_running_loop().call_later(GATHER_S, self._changed.set)
        self._unread.add(task_id)

    async def cancel(self, task_ids: Iterable[str], cancel: Cancel) -> None:
        """Mark the tasks for every worker, and end those that run here."""
        told = set(task_ids)
        try:
            await cancels.share(self._client, told, cancel)
        except (RedisError, OSError) as error:
            log.warning("task.revoke_not_shared", count=len(told), error=repr(error))
        for task_id in told:
            self._end(task_id, cancel)

    def changed(self, task_id: str | None) -> None:
        """Redis says that the mark of a task has changed; None: that any may have."""
        self._unread |= self._running.keys() if task_id is None else {task_id} & self._running.keys()
        if self._unread:
            self._changed.set()

    async def run(self) -> None:
        """Reads the marks that changed, and those that could not be read before. Runs until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            unread, self._unread = self._unread & self._running.keys(), set()
            await self._look(unread)
            if self._unread:
                await asyncio.sleep(connection.RETRY_S)

    async def _look(self, task_ids: set[str]) -> None:
        """Ends the tasks that have a mark. What a Redis that is away does not say is asked again by `run`."""
        try:
            marks = await cancels.read(self._client, task_ids)
        except (RedisError, OSError):
            self._unread |= task_ids
            self._changed.set()
            return
        for task_id, cancel in marks.items():
            self._end(task_id, cancel)

    def _end(self, task_id: str, cancel: Cancel) -> None:
        for running in self._running.get(task_id, ()):
            running.cancel(cancel)
