"""Suspects of one process, in place of Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SuspectsHere:
    """`seen` has whoever ran alone, in order."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self._one = asyncio.Lock()

    @asynccontextmanager
    async def alone(self, task_id: str, item: int = 0) -> AsyncIterator[None]:
        async with self._one:
            self.seen.append((task_id, item))
            yield
