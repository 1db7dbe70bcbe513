"""Work of one task that is done at once."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from aegis_workers.errors import PutBack

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order. The first failure cancels the rest and is raised as itself.

    Work that is put back lets the rest come to its end first: what is in flight is not wasted, and is kept.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_patient(one)) for one in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    results: list[T] = []
    for task in tasks:
        result = task.result()
        if isinstance(result, PutBack):
            raise result
        results.append(result)
    return results


async def _patient(work: Coroutine[Any, Any, T]) -> T | PutBack:
    try:
        return await work
    except PutBack as error:
        return error
