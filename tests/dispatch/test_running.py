"""When a task that is revoked ends: by how far it has come, and by whichever way the news of it arrives."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from settling import WAIT_S, begun, ended, settled

from aegis_workers.dispatch import running
from aegis_workers.dispatch.running import Tasks
from aegis_workers.errors import CallRevoked
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.state import cancels, connection, keys
from aegis_workers.state.cancels import Cancel

pytestmark = pytest.mark.anyio

REVOKE, TERMINATE = Cancel.REVOKE, Cancel.TERMINATE


class Task:
    """A task with one call, which waits for a slot, is at an engine, and is done, as the test says."""

    def __init__(self, tasks: Tasks, task_id: str = "a") -> None:
        self.admitted, self.answered, self.may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.closed = False
        self._tasks, self._task_id = tasks, task_id

    async def start(self) -> "asyncio.Task[str]":
        return await begun(self._tasks.carry_out(self._task_id, self._work))

    async def _work(self) -> str:
        task = running.current()
        task.check()
        await self.admitted.wait()
        with task.pinned():
            try:
                await self.answered.wait()
            except asyncio.CancelledError:
                self.closed = True
                raise
        task.check()  # it may have lost its engine, and would wait again
        task.call_done(Engine.VLLM, Mode.AUTO)
        await self.may_end.wait()
        return "done"


@pytest.fixture
async def tasks(async_client: redis.asyncio.Redis) -> AsyncIterator[Tasks]:
    tasks = Tasks(async_client)
    reading = asyncio.create_task(tasks.run())
    yield tasks
    assert not reading.done()
    await ended(reading)


async def outcome(work: "asyncio.Task[Any]") -> Any:
    async with asyncio.timeout(WAIT_S):
        return (await asyncio.gather(work, return_exceptions=True))[0]


async def terminated(work: "asyncio.Task[Any]") -> bool:
    error = await outcome(work)
    assert isinstance(error, CallRevoked), error
    return error.terminated


@pytest.mark.parametrize("cancel", Cancel)
async def test_a_task_that_waits_ends_at_once(tasks: Tasks, cancel: Cancel) -> None:
    work = await Task(tasks).start()
    await tasks.cancel(["a", "somebody else's"], cancel)
    assert await terminated(work) is (cancel is TERMINATE)


async def test_a_call_at_its_engine_is_closed_by_terminate_and_not_by_revoke(tasks: Tasks) -> None:
    task = Task(tasks)
    work = await task.start()
    task.admitted.set()
    await settled()
    await tasks.cancel(["a"], REVOKE)
    await settled()
    assert not work.done()
    await tasks.cancel(["a"], TERMINATE)
    assert await terminated(work)
    assert task.closed


async def test_a_task_of_which_a_call_is_done_is_ended_by_terminate_alone(tasks: Tasks) -> None:
    task = Task(tasks)
    work = await task.start()
    task.admitted.set()
    task.answered.set()
    await settled()
    await tasks.cancel(["a"], REVOKE)
    task.may_end.set()
    assert await outcome(work) == "done"


async def test_a_revoked_call_that_comes_back_from_its_engine_does_not_wait_again(tasks: Tasks) -> None:
    task = Task(tasks)
    work = await task.start()
    task.admitted.set()
    await settled()
    await tasks.cancel(["a"], REVOKE)
    task.answered.set()
    assert not await terminated(work)


@pytest.mark.parametrize("cancel", Cancel)
async def test_a_mark_that_was_there_before_the_task_ends_it(tasks: Tasks, client: redis.Redis, cancel: Cancel) -> None:
    cancels.mark(client, ["a"], cancel)
    work = await Task(tasks).start()
    assert await terminated(work) is (cancel is TERMINATE)


@pytest.mark.parametrize("told", ["a", None], ids=["of this task", "of any"])
async def test_a_mark_is_read_when_redis_says_that_it_changed(tasks: Tasks, client: redis.Redis, told: str | None) -> None:
    work = await Task(tasks).start()
    tasks.changed("another")
    await settled()
    client.set(keys.cancelled("a"), "terminate")
    assert not work.done()
    tasks.changed(told)
    assert await terminated(work)


async def test_a_cancel_is_kept_for_other_workers(tasks: Tasks, client: redis.Redis) -> None:
    await tasks.cancel(["a", "b"], TERMINATE)
    assert [client.get(keys.cancelled(task_id)) for task_id in "ab"] == ["terminate"] * 2


async def test_every_delivery_of_a_task_in_this_process_ends(tasks: Tasks) -> None:
    both = [await Task(tasks).start() for _ in range(2)]
    await tasks.cancel(["a"], TERMINATE)
    assert [await terminated(work) for work in both] == [True, True]


async def test_a_task_that_ends_otherwise_ends_so(tasks: Tasks) -> None:
    async def fail() -> None:
        raise ValueError("its own")

    assert isinstance(await outcome(await begun(tasks.carry_out("a", fail))), ValueError)
    stopped = await Task(tasks).start()
    stopped.cancel()
    assert isinstance(await outcome(stopped), asyncio.CancelledError)


async def test_a_redis_that_was_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RETRY_S", 0.01)
    async with connection.open_async(Settings(_env_file=None, redis_url="redis://127.0.0.1:1/0")) as away:
        tasks = Tasks(away)
        reading = asyncio.create_task(tasks.run())
        work = await Task(tasks).start()
        await tasks.cancel(["somebody else's"], TERMINATE)
        back = answering({"a": TERMINATE})
        monkeypatch.setattr(cancels, "read", back)
        assert await terminated(work)
        await ended(reading)


def answering(marks: dict[str, Cancel]) -> Callable[..., Any]:
    async def read(*_: Any) -> dict[str, Cancel]:
        return marks

    return read


async def test_without_a_task_nothing_is_ever_revoked() -> None:
    task = running.current()
    task.check()
    with task.pinned():
        assert task.has_begun
    error = ValueError("its own")
    assert running.cause(error) is error
