"""Calls that block and may hang: beside the event loop, and beside the threads that the rest of the process shares."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Aside:
    """Makes one call at a time, each in a thread that holds up neither others nor the end of the process."""

    def __init__(self, name: str) -> None:
        """`name` is the threads'."""
        self._name = name
        self._last: Future[Any] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a call goes on, though nobody may wait for it any more."""
        return self._last is not None and not self._last.done()

    async def run(self, call: Callable[[], T]) -> T:
        """What the call returns or raises. Raises `TimeoutError` at once where an earlier one has not ended: it hangs."""
        if self.is_busy:
            raise TimeoutError
        made: Future[T] = Future()
        made.set_running_or_notify_cancel()  # whoever stops waiting does not end the call
        self._last = made
        threading.Thread(target=_make, args=(call, made), name=self._name, daemon=True).start()
        return await asyncio.wrap_future(made)


def _make(call: Callable[[], T], made: Future[T]) -> None:
    try:
        made.set_result(call())
    except BaseException as error:  # noqa: BLE001 - whoever waits raises it
        made.set_exception(error)
