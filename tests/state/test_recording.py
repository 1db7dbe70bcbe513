"""How a worker's outcomes reach Redis: together, once, and though Redis is away or full for a while."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from settling import begun, ended

from aegis_workers.outcome import Status
from aegis_workers.state import connection, keys, recording
from aegis_workers.state.job_outcomes import Kind, Outcome
from aegis_workers.state.job_state import State
from aegis_workers.state.jobs import Batch, Image, Jobs
from aegis_workers.state.leader import Leadership
from aegis_workers.state.recording import BatchStart, Recorder, Recording

pytestmark = pytest.mark.anyio

JOB, OTHER, BATCH = "job_1", "job_2", "job_1.batch"


def outcome(chunk: int, body: bytes = b"{}") -> Outcome:
    return Outcome(chunk=chunk, kind=Kind.PIECE, status=Status.OK, body=body)


class Flaky(Recorder):
    """Does what is wanted of it around each script that it sends."""

    sent: list[Sequence[Any]]
    after: Callable[[], Any] = staticmethod(lambda: None)

    async def _send(self, reports: Sequence[Any]) -> Recording:
        self.sent.append(reports)
        told = await super()._send(reports)
        self.after()
        return told


@pytest.fixture
async def jobs(client: redis.Redis, async_client: redis.asyncio.Redis) -> Jobs:
    """Two jobs, one of them with a batch of four chunks that was fed."""
    jobs = Jobs(async_client)
    token = await Leadership(async_client, "test").hold()
    assert token
    for job_id in (JOB, OTHER):
        await jobs.install(token, job_id, Image(engine="vllm"), recorded=None)
    await jobs.feed(token, JOB, [Batch(batch_id=BATCH, chunks=[(0, 3)], message=b"m")], queue="extraction", fed=0, fed_after=4)
    client.zadd(keys.ALIVE, {"w1": 1})
    return jobs


@pytest.fixture
async def recorder(jobs: Jobs, async_client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Flaky]:
    del jobs
    monkeypatch.setattr(connection, "RETRY_S", 0.01)
    recorder = Flaky(async_client, "w1")
    recorder.sent = []
    running = asyncio.create_task(recorder.run())
    yield recorder
    await ended(running)


async def numbered(jobs: Jobs, job_id: str = JOB) -> list[int]:
    return [one.chunk for one in await jobs.collect(job_id, 0, 1000)]


async def test_outcomes_that_come_together_are_recorded_by_one_script(recorder: Flaky, jobs: Jobs) -> None:
    async with asyncio.timeout(10):
        told = await asyncio.gather(*(recorder.record(JOB, [outcome(chunk)]) for chunk in range(32)))
    assert set(told) == {Recording.RECORDED}
    assert await numbered(jobs) == list(range(32))
    assert len(recorder.sent) == 1


async def test_outcomes_that_come_soon_after_one_another_are_recorded_by_one_script(
    recorder: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "GATHER_S", 0.5)
    waiting = [await begun(recorder.record(JOB, [outcome(chunk)])) for chunk in range(3)]
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)
    assert len(recorder.sent) == 1


async def test_each_job_has_a_script_of_its_own(recorder: Flaky, jobs: Jobs) -> None:
    async with asyncio.timeout(10):
        await asyncio.gather(*(recorder.record((JOB, OTHER)[chunk % 2], [outcome(chunk)]) for chunk in range(6)))
    assert await numbered(jobs, JOB) == [0, 2, 4]
    assert await numbered(jobs, OTHER) == [1, 3, 5]
    assert len(recorder.sent) == 2


async def test_a_script_holds_no_more_than_its_bounds(recorder: Flaky, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_BYTES_AT_ONCE", 1000)
    monkeypatch.setattr(recording, "_OUTCOMES_AT_ONCE", 3)
    async with asyncio.timeout(10):
        large = [recorder.record(JOB, [outcome(chunk, b"x" * 600)]) for chunk in range(3)]
        small = [recorder.record(JOB, [outcome(chunk)]) for chunk in range(3, 10)]
        too_large = recorder.record(JOB, [outcome(10, b"x" * 3000)])
        await asyncio.gather(*large, *small, too_large)
    assert await numbered(jobs) == list(range(11))
    assert [len(reports) for reports in recorder.sent] == [1, 1, 3, 3, 2, 1]


async def test_the_batch_that_ends_leaves_the_window(recorder: Flaky, jobs: Jobs) -> None:
    async with asyncio.timeout(10):
        await recorder.record(JOB, [outcome(chunk) for chunk in range(4)], finished=BATCH)
    assert await jobs.batches(JOB) == []


async def test_a_worker_that_was_declared_dead_records_nothing(client: redis.Redis, recorder: Flaky, jobs: Jobs) -> None:
    client.zrem(keys.ALIVE, "w1")
    async with asyncio.timeout(10):
        assert await recorder.record(JOB, [outcome(0)], finished=BATCH) is Recording.DEAD
    assert await numbered(jobs) == []
    assert len(await jobs.batches(JOB)) == 1


async def test_a_job_that_is_gone_or_closing_takes_nothing(
    recorder: Flaky, jobs: Jobs, async_client: redis.asyncio.Redis
) -> None:
    token = int(str(await async_client.get(keys.CONTROLLER_TOKEN)))
    await jobs.close(token, JOB)
    await jobs.drop(token, OTHER)
    async with asyncio.timeout(10):
        assert await recorder.record(JOB, [outcome(0)], finished=BATCH) is Recording.CLOSING
        assert await recorder.record(OTHER, [outcome(0)]) is Recording.GONE
    assert await numbered(jobs) == []
    assert await jobs.batches(JOB) == []


async def test_an_outcome_waits_until_a_full_redis_has_room(client: redis.Redis, recorder: Flaky, jobs: Jobs) -> None:
    client.config_set("maxmemory", 1)
    try:
        waiting = asyncio.create_task(recorder.record(JOB, [outcome(0)]))
        async with asyncio.timeout(10):
            while len(recorder.sent) < 3:  # noqa: ASYNC110 - it tries again and again
                await asyncio.sleep(0.01)
        assert not waiting.done()
    finally:
        client.config_set("maxmemory", 0)
    async with asyncio.timeout(10):
        assert await waiting is Recording.RECORDED
    assert await numbered(jobs) == [0]


async def test_outcomes_whose_answer_was_lost_are_sent_again_and_stay_recorded_once(recorder: Flaky, jobs: Jobs) -> None:
    losses = [RedisConnectionError("lost"), TimeoutError("lost")]

    def lose() -> None:
        if losses:
            raise losses.pop()

    recorder.after = lose
    async with asyncio.timeout(10):
        assert await recorder.record(JOB, [outcome(0), outcome(1)], finished=BATCH) is Recording.RECORDED
    assert len(recorder.sent) == 3
    assert await numbered(jobs) == [0, 1]
    assert await jobs.batches(JOB) == []


async def test_what_redis_will_never_take_is_told_to_its_caller_and_holds_up_no_other(
    client: redis.Redis, recorder: Flaky, jobs: Jobs
) -> None:
    client.delete(keys.job(OTHER))
    client.set(keys.job(OTHER), "no hash")
    async with asyncio.timeout(10):
        refused, recorded = await asyncio.gather(
            recorder.record(OTHER, [outcome(0)]), recorder.record(JOB, [outcome(0)]), return_exceptions=True
        )
    assert isinstance(refused, ResponseError)
    assert recorded is Recording.RECORDED
    assert await numbered(jobs) == [0]


async def test_what_a_cancelled_caller_gave_is_recorded_all_the_same(recorder: Flaky, jobs: Jobs) -> None:
    given_up = await begun(recorder.record(JOB, [outcome(0)]))
    given_up.cancel()
    async with asyncio.timeout(10):
        await recorder.record(JOB, [outcome(1)])
    assert await numbered(jobs) == [0, 1]


async def test_nobody_waits_for_a_recorder_that_has_ended(async_client: redis.asyncio.Redis) -> None:
    recorder = Recorder(async_client, "w1")
    running = await begun(recorder.run())
    waiting = await begun(recorder.record(JOB, [outcome(0)]))
    await ended(running)
    async with asyncio.timeout(10):
        await asyncio.wait([waiting])
    assert waiting.cancelled()


async def test_a_batch_begins_with_what_is_known_of_it(recorder: Flaky, jobs: Jobs) -> None:
    del jobs
    async with asyncio.timeout(10):
        await recorder.record(JOB, [outcome(1), outcome(3)])
        fresh = await recorder.begin_batch(JOB, BATCH, [0, 1, 2, 3])
        replaced = await recorder.begin_batch(JOB, "another", [0])
        gone = await recorder.begin_batch("never", BATCH, [0])
    assert fresh == BatchStart(state=State.OPEN, engine="vllm", recorded=frozenset({1, 3}), known=True)
    assert replaced == BatchStart(state=State.OPEN, engine="vllm", recorded=frozenset(), known=False)
    assert gone == BatchStart(state=None, engine=None, recorded=frozenset(), known=False)
