"""A leader that dies between any two of its steps: the next one loses and doubles nothing."""

import inspect
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from job_place import ids, lines
from leading import Crash, Place, ready_place

from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.journal import Journal, State
from aegis_workers.jobs.parts import Parts
from aegis_workers.settings import Settings
from aegis_workers.state.jobs import Jobs

pytestmark = pytest.mark.anyio


@pytest.fixture
async def here(async_client: redis.asyncio.Redis, settings: Settings, tmp_path: Path) -> Place:
    return await ready_place(async_client, settings, tmp_path / "data")


DOCUMENTS = [(f"doc-{number}", f"Text number {number}. " * 30) for number in range(40)]


class Fate:
    """The death of the leader before or after it does something for the `at`-th time."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.struck = False

    def strike(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.struck = True
            raise Crash


def plant(patch: pytest.MonkeyPatch, kind: type, name: str, fate: Fate, *, after: bool) -> None:
    original = getattr(kind, name)

    async def asynchronous(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not after:
            fate.strike()
        answer = await original(self, *args, **kwargs)
        if after:
            fate.strike()
        return answer

    def synchronous(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not after:
            fate.strike()
        answer = original(self, *args, **kwargs)
        if after:
            fate.strike()
        return answer

    patch.setattr(kind, name, asynchronous if inspect.iscoroutinefunction(original) else synchronous)


# What the leader does, how often at least, and so at which times it may die.
DEEDS: list[tuple[type, str, tuple[int, ...]]] = [
    (Jobs, "install", (1,)),
    (Jobs, "feed", (1, 3)),
    (Parts, "write", (1, 2)),
    (Parts, "_finish", (1, 2, 3, 4)),
    (Jobs, "commit", (1, 2)),
    (Parts, "commit", (1, 2)),
    (Parts, "_move", (1, 2, 3, 4)),
    (Journal, "append", (1, 2)),
    (Jobs, "drop", (1,)),
]
POINTS = [(kind, name, after, at) for kind, name, times in DEEDS for after in (False, True) for at in times]


@pytest.mark.parametrize(("kind", "name", "after", "at"), POINTS)
async def test_a_death_at_any_point_loses_and_doubles_nothing(
    here: Place, monkeypatch: pytest.MonkeyPatch, kind: type, name: str, *, after: bool, at: int
) -> None:
    job = here.submit(DOCUMENTS, options={"chunk_tokens": 100, "chunk_overlap_tokens": 0})
    fate = Fate(at)
    with monkeypatch.context() as patch:
        plant(patch, kind, name, fate, after=after)
        await run_to_the_end(here, job)
    assert fate.struck
    await run_to_the_end(here, job)
    assert job.journal.last().state is State.COMPLETED
    assert ids(lines(job)) == Counter(custom_id for custom_id, _ in DOCUMENTS)
    assert max(Counter(here.asked[job.id]).values()) == 1
    assert await here.state(job) is None


async def run_to_the_end(here: Place, job: JobFolder) -> None:
    leader = await here.lead()
    with suppress(Crash):
        for _ in range(60):
            await leader.step()
            await here.work(most=3, backwards=True)
            if job.journal.last().state.is_terminal and await here.state(job) is None:
                return
