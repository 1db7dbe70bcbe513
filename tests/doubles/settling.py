"""The end of all that can happen now: tests look at the result of an action when nothing is left to run."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

WAIT_S = 10.0


async def settled() -> None:
    """Returns when every other task of the loop waits for something that only the test, a clock or a network can bring."""
    while _called_back() or any(_can_run(task) for task in asyncio.all_tasks() - {asyncio.current_task()}):  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)


def _called_back() -> bool:
    """Whether callbacks are due, such as those that tell `asyncio.wait` of a task that has ended."""
    return bool(asyncio.get_running_loop()._ready)  # type: ignore[attr-defined] # asyncio has no public way to ask


def _can_run(task: asyncio.Task[Any]) -> bool:
    waits_for = task._fut_waiter  # type: ignore[attr-defined] # asyncio has no public way to ask
    return waits_for is None or waits_for.done()


async def begun(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """`work` as a task that has come as far as it can."""
    task = asyncio.create_task(work)
    await settled()
    return task


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancels until the task has ended: redis-py's connections can swallow a cancellation that comes with their answer."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
