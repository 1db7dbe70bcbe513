"""Bulk jobs in Redis: a full Redis, many batches, large jobs, and what their cost is bounded by."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.exceptions import RedisError

from aegis_workers.outcome import Status
from aegis_workers.state import connection, job_state, keys
from aegis_workers.state.cancels import Cancel
from aegis_workers.state.job_outcomes import Kind, Outcome, Recorded
from aegis_workers.state.job_state import JobState, State
from aegis_workers.state.job_totals import Totals
from aegis_workers.state.jobs import Batch, Image, Jobs, Ruling
from aegis_workers.state.leader import Leadership
from aegis_workers.state.recording import Recorder, Recording, _Report

pytestmark = pytest.mark.anyio

JOB, QUEUE = "job_1", "extraction"


def outcome(chunk: int, body: bytes = b"{}") -> Outcome:
    return Outcome(chunk=chunk, kind=Kind.LINE, status=Status.OK, body=body, totals=Totals(attempts=1, calls={"vllm": 1}))


def batch(first: int, last: int, message: bytes = b"message") -> Batch:
    return Batch(batch_id=f"{JOB}.{first}", chunks=[(first, last)], message=message)


class Place:
    """A job whose leader and worker are this test."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client
        self.jobs = Jobs(client)
        self.recorder = Recorder(client, "")
        self.token = 0

    async def begin(self) -> None:
        self.token = await Leadership(self.client, "test").hold() or 0
        assert await self.jobs.install(self.token, JOB, Image(), recorded=None) is Ruling.DONE

    async def feed(self, *batches: Batch, fed: int = 0) -> Ruling:
        after = max(last + 1 for one in batches for _, last in one.chunks)
        return await self.jobs.feed(self.token, JOB, batches, queue=QUEUE, fed=fed, fed_after=after)

    async def record(self, outcomes: Sequence[Outcome], finished: str = "") -> Recording:
        """One try."""
        told: Any = None
        return await self.recorder._send([_Report(job_id=JOB, outcomes=outcomes, finished=finished, answer=told)])

    async def commit(self, part: Sequence[Recorded]) -> Ruling:
        return await self.jobs.commit(
            self.token,
            JOB,
            collected=0,
            last=part[-1],
            size_bytes=sum(one.size_bytes for one in part),
            items={Status.OK: len(part)},
            totals=sum((one.totals for one in part), Totals()),
        )

    async def read(self) -> JobState:
        found = await self.jobs.read(JOB)
        assert found is not None
        return found


@pytest.fixture
async def place(async_client: redis.asyncio.Redis) -> Place:
    made = Place(async_client)
    await made.begin()
    return made


def fill(client: redis.Redis) -> None:
    """From here on Redis takes nothing in, until the test is over."""
    client.config_set("maxmemory", 1)


@pytest.fixture(autouse=True)
def _emptied(client: redis.Redis) -> Any:
    yield
    client.config_set("maxmemory", 0)


def contents(client: redis.Redis) -> dict[str, Any]:
    names: Any = client.keys()
    return {name: client.dump(name) for name in names}


async def test_a_full_redis_refuses_batches_and_outcomes_whole(client: redis.Redis, place: Place) -> None:
    await place.feed(batch(0, 3))
    await place.record([outcome(0)])
    before = contents(client)
    fill(client)
    for refused in (
        place.feed(batch(4, 7), batch(8, 9), fed=4),
        place.jobs.refeed(place.token, JOB, f"{JOB}.0", [batch(1, 3)], queue=QUEUE, fed=4),
        place.record([outcome(1), outcome(2), outcome(3)], finished=f"{JOB}.0"),
        place.record([outcome(0), outcome(1)]),
        place.jobs.install(place.token, "job_2", Image(done=b"\0"), recorded=None),
    ):
        with pytest.raises(RedisError) as caught:
            await refused
        assert connection.is_full(caught.value)
        assert connection.will_pass(caught.value)
    assert contents(client) == before


async def test_a_full_redis_lets_a_job_be_collected_noted_rebuilt_closed_and_dropped(client: redis.Redis, place: Place) -> None:
    await place.feed(batch(0, 3))
    await place.record([outcome(chunk) for chunk in range(3)])
    held = (await place.read()).held_bytes
    part = await place.jobs.collect(JOB, 0, 2)
    fill(client)
    assert await place.commit(part) is Ruling.DONE
    assert await place.jobs.note(place.token, JOB, waits="Redis is full") is Ruling.DONE
    found = await place.read()
    assert (found.collected, found.held_bytes, found.items) == (2, held // 3, {Status.OK: 2})
    assert found.totals == Totals(attempts=2, calls={"vllm": 2})
    assert found.waits == "Redis is full"
    assert client.xlen(keys.job_outcomes(JOB)) == 1
    left = await place.jobs.collect(JOB, 2, 10)
    image = Image(fed=4, collected=2, done=b"\xc0", survivors=left)
    assert await place.jobs.install(place.token, JOB, image, recorded=3) is Ruling.DONE
    assert (await place.read()).recorded == 3
    assert await place.jobs.close(place.token, JOB) is Ruling.DONE
    assert await place.record([outcome(3)], finished=f"{JOB}.0") is Recording.CLOSING
    assert (await place.read()).out_chunks == 0
    assert await place.jobs.drop(place.token, JOB) is Ruling.DONE
    assert not client.keys("aegis:job*")


async def test_a_full_redis_lets_a_batch_end_whose_outcomes_are_recorded(client: redis.Redis, place: Place) -> None:
    await place.feed(batch(0, 0))
    await place.record([outcome(0)])
    fill(client)
    assert await place.record([], finished=f"{JOB}.0") is Recording.RECORDED
    assert await place.jobs.batches(JOB) == []


async def test_batches_leave_the_queue_in_the_order_in_which_they_were_fed(client: redis.Redis, place: Place) -> None:
    await place.feed(batch(0, 1, b"first"), batch(2, 5, b"second"))
    assert client.rpop(QUEUE) == "first"
    found = await place.jobs.batches(JOB)
    assert {(one.batch_id, tuple(one.chunks), one.count, one.size_bytes) for one in found} == {
        (f"{JOB}.0", ((0, 1),), 2, 5),
        (f"{JOB}.2", ((2, 5),), 4, 6),
    }
    assert all(abs(one.at_ms / 1000 - time.time()) < 60 for one in found)


async def test_a_feed_that_is_sent_again_feeds_nothing(client: redis.Redis, place: Place) -> None:
    assert await place.feed(batch(0, 3)) is Ruling.DONE
    assert await place.feed(batch(0, 3)) is Ruling.MOVED
    assert client.llen(QUEUE) == 1


async def test_a_commit_that_is_sent_again_counts_nothing(place: Place) -> None:
    await place.record([outcome(0)])
    part = await place.jobs.collect(JOB, 0, 10)
    assert await place.commit(part) is Ruling.DONE
    before = await place.read()
    assert before.committed_by == place.token
    assert await place.commit(part) is Ruling.MOVED
    assert await place.read() == before


async def test_a_commit_forgets_nothing_that_a_redis_recorded_after_it_lost_what_was_read(
    client: redis.Redis, place: Place
) -> None:
    before: Any = client.dump(keys.job(JOB))
    await place.record([outcome(0), outcome(1)])
    part = await place.jobs.collect(JOB, 0, 10)
    client.delete(keys.job_done(JOB), keys.job_outcomes(JOB))
    client.restore(keys.job(JOB), 0, before, replace=True)
    await place.record([outcome(2), outcome(1)])
    assert (await place.read()).recorded == 2
    assert await place.commit(part) is Ruling.MOVED
    assert [one.chunk for one in await place.jobs.collect(JOB, 0, 10)] == [2, 1]


async def test_a_lost_batch_is_replaced_by_others_and_a_finished_one_is_not(client: redis.Redis, place: Place) -> None:
    await place.feed(batch(0, 3))
    client.delete(QUEUE)
    assert await place.jobs.refeed(place.token, JOB, f"{JOB}.0", [batch(2, 3)], queue=QUEUE, fed=4) is Ruling.DONE
    assert [one.batch_id for one in await place.jobs.batches(JOB)] == [f"{JOB}.2"]
    found = await place.read()
    assert (found.fed, found.out_chunks, found.out_bytes, client.llen(QUEUE)) == (4, 2, len(b"message"), 1)
    await place.record([outcome(2), outcome(3)], finished=f"{JOB}.2")
    assert await place.jobs.refeed(place.token, JOB, f"{JOB}.2", [batch(3, 3)], queue=QUEUE, fed=4) is Ruling.MOVED
    assert client.llen(QUEUE) == 1


async def test_outcomes_that_are_sent_again_change_nothing_but_the_count_of_doubled_ones(place: Place) -> None:
    await place.feed(batch(0, 1))
    sent = [outcome(0), outcome(1)]
    assert await place.record(sent, finished=f"{JOB}.0") is Recording.RECORDED
    before = await place.read()
    assert await place.record(sent, finished=f"{JOB}.0") is Recording.RECORDED
    after = await place.read()
    assert (after.recorded, after.held_bytes, after.out_chunks, after.doubled) == (2, before.held_bytes, 0, 2)


async def test_what_was_recorded_while_an_image_was_made_is_not_lost(place: Place) -> None:
    await place.record([outcome(0)])
    seen = await place.read()
    survivors = await place.jobs.collect(JOB, 0, 10)
    await place.record([outcome(1)])
    image = Image(survivors=survivors)
    assert await place.jobs.install(place.token, JOB, image, recorded=seen.recorded) is Ruling.MOVED
    assert (await place.read()).recorded == 2


async def test_a_job_of_which_redis_knows_is_not_built_as_if_it_did_not(place: Place) -> None:
    assert await place.jobs.install(place.token, JOB, Image(), recorded=None) is Ruling.MOVED


async def test_thousands_of_survivors_are_installed_in_their_order(place: Place) -> None:
    survivors = [outcome(chunk) for chunk in range(5000, 0, -1)]
    image = Image(collected=7, survivors=survivors, done=bytes(1000))
    assert await place.jobs.install(place.token, JOB, image, recorded=0) is Ruling.DONE
    found = await place.jobs.collect(JOB, 7, 10_000)
    assert [(one.number, one.chunk) for one in found] == [(8 + place_, one.chunk) for place_, one in enumerate(survivors)]
    assert sum(one.size_bytes for one in found) == (await place.read()).held_bytes


async def test_bodies_are_bytes_as_the_worker_sent_them(place: Place) -> None:
    body = json.dumps({"name": "Zoë Ångström", "wert": "naïve 漢字"}, ensure_ascii=False).encode()
    await place.record([outcome(0, body)])
    (found,) = await place.jobs.collect(JOB, 0, 1)
    assert found.body == body


async def test_cancelling_marks_every_batch_that_is_not_finished(client: redis.Redis, place: Place) -> None:
    batches = [batch(number, number) for number in range(1500)]
    await place.feed(*batches)
    await place.record([outcome(0)], finished=batches[0].batch_id)
    await place.jobs.close(place.token, JOB)
    assert await place.jobs.cancel_batches(JOB) == 1499
    assert client.get(keys.cancelled(batches[0].batch_id)) is None
    assert {client.get(keys.cancelled(one.batch_id)) for one in batches[1:]} == {Cancel.TERMINATE.value}


async def test_dropping_a_job_leaves_another_alone(client: redis.Redis, place: Place) -> None:
    await place.jobs.install(place.token, "job_2", Image(fed=3), recorded=None)
    await place.jobs.drop(place.token, JOB)
    assert await place.jobs.read_many([JOB, "job_2"]) == {"job_2": JobState(job_id="job_2", state=State.OPEN, fed=3)}
    assert job_state.read_now(client, [JOB, "job_2"]).keys() == {"job_2"}
    assert await place.jobs.open_ids() == {"job_2"}


@pytest.mark.parametrize("at_work", [0, 2000])
async def test_the_state_of_a_job_of_a_million_chunks_takes_under_10_ms(place: Place, at_work: int) -> None:
    image = Image(fed=1_000_000, done=b"\xff" * 125_000)
    assert await place.jobs.install(place.token, JOB, image, recorded=0) is Ruling.DONE
    if at_work:
        await place.feed(*(batch(1_000_000 + number, 1_000_000 + number) for number in range(at_work)), fed=1_000_000)
    took_s = []
    for _ in range(20):
        began = time.perf_counter()
        await place.read()
        took_s.append(time.perf_counter() - began)
    assert min(took_s) < 0.01
