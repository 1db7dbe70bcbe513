"""Jobs led step by step: what is fed, what a job waits for, and how it ends."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis.asyncio
from job_place import ids, lines
from leading import URL, Place, ready_place

from aegis_workers.engines.base import Readiness
from aegis_workers.errors import SpoolFull
from aegis_workers.jobs import overseer as overseers
from aegis_workers.jobs import suspicion
from aegis_workers.jobs.bitmap import Bitmap
from aegis_workers.jobs.charge import Charge
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.gathering import Gathered, Gatherer
from aegis_workers.jobs.journal import Entry, Event, State
from aegis_workers.jobs.ledger import Ledger
from aegis_workers.jobs.manifest import EnginePolicy
from aegis_workers.jobs.part import Part
from aegis_workers.jobs.steps import Deposed
from aegis_workers.outcome import Status
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.state import keys
from aegis_workers.state.job_outcomes import Recorded
from aegis_workers.state.leader import Leadership

pytestmark = pytest.mark.anyio


@pytest.fixture
async def here(async_client: redis.asyncio.Redis, settings: Settings, tmp_path: Path) -> Place:
    return await ready_place(async_client, settings, tmp_path / "data")


def documents(count: int, name: str = "doc") -> list[tuple[str, str]]:
    return [(f"{name}-{number}", f"Ada met Bo in town {number}.") for number in range(count)]


def long_documents(count: int) -> list[tuple[str, str]]:
    return [(f"doc-{number}", f"Ada met Bo in town {number}. " * 40) for number in range(count)]


CUT: dict[str, int] = {"chunk_tokens": 50, "chunk_overlap_tokens": 0}


async def lead_to_the_end(here: Place, *jobs: JobFolder, passes: int = 100) -> None:
    assert here.overseer is not None
    for _ in range(passes):
        await here.overseer.step()
        await here.work(most=3)
        if all(job.journal.last().state.is_terminal for job in jobs):
            return
    raise AssertionError([job.journal.last() for job in jobs])


async def waits(here: Place, job: JobFolder) -> str | None:
    state = await here.state(job)
    assert state is not None
    return state.waits


def complete(job: JobFolder, count: int) -> bool:
    return ids(lines(job)) == Counter(f"doc-{number}" for number in range(count))


async def test_the_window_is_never_exceeded_and_several_jobs_share_it(here: Place) -> None:
    jobs = [here.submit(documents(200)), here.submit(documents(200))]
    leader = await here.lead()
    await leader.step()
    await leader.step()
    states = [await here.state(job) for job in jobs]
    assert [state.out_chunks for state in states if state] == [32, 32]
    await lead_to_the_end(here, *jobs)
    assert all(complete(job, 200) for job in jobs)


async def test_a_new_job_is_fed_as_soon_as_there_is_room(here: Place) -> None:
    old = here.submit(documents(200))
    leader = await here.lead()
    await leader.step()
    await leader.step()
    new = here.submit(documents(20))
    leader._looked_at = float("-inf")
    await leader.step()
    assert await waits(here, new) is not None
    assert "other jobs" in str(await waits(here, new))
    await here.work(most=2)
    await leader.step()
    await leader.step()
    state = await here.state(new)
    assert state is not None
    assert state.out_chunks > 0
    assert state.waits is None
    await lead_to_the_end(here, old, new)


async def test_items_of_several_chunks_are_merged_in_whatever_order_they_end(here: Place) -> None:
    job = here.submit(long_documents(12), options=CUT)
    leader = await here.lead()
    while not job.journal.last().state.is_terminal:
        await leader.step()
        await here.work(most=2, backwards=True)
    found = lines(job)
    assert complete(job, 12)
    for line in found:
        starts = [call["start"] for call in line["calls"]]
        assert len(starts) > 1
        assert starts == sorted(starts)
        assert len(line["data"]["entities"]) == len(starts)


async def test_a_job_whose_engine_is_down_is_held_back_and_says_why(here: Place) -> None:
    await here.engine_is(Readiness.STARTING, "loading the model")
    job = here.submit(documents(10))
    leader = await here.lead()
    for _ in range(3):
        await leader.step()
    assert await waits(here, job) == "waits for vLLM: starting"
    assert await here.work() == 0
    await here.engine_is(Readiness.READY)
    leader._outlook._read_at = float("-inf")
    await lead_to_the_end(here, job)
    assert complete(job, 10)


async def test_a_job_that_stays_on_its_engine_says_so_in_journal_messages_and_redis(here: Place) -> None:
    job = here.submit(documents(10), policy=EnginePolicy.PER_JOB)
    leader = await here.lead()
    for _ in range(3):
        await leader.step()
    assert [entry.engine for entry in job.journal.entries() if entry.event is Event.PINNED] == ["vllm"]
    state = await here.state(job)
    assert state is not None
    assert state.engine == "vllm"
    await here.client.set(keys.MODE, Mode.OLLAMA)
    leader._outlook._read_at = float("-inf")
    await leader.step()
    assert "stays on vLLM" in str(await waits(here, job))


async def test_a_job_that_waits_for_its_engine_holds_up_nobody_whose_engine_serves(here: Place) -> None:
    here.settings = here.settings.model_copy(update={"ollama_model": "sim", "ollama_url": (URL,)})
    stuck = here.submit(documents(200), policy=EnginePolicy.PER_JOB)
    leader = await here.lead()
    for _ in range(3):
        await leader.step()
    filled = await here.state(stuck)
    assert filled is not None
    assert filled.out_chunks == 64
    await here.engine_is(Readiness.UNAVAILABLE, "it is gone")
    await here.engine_is(Readiness.READY, engine=Engine.OLLAMA)
    leader._outlook._read_at = float("-inf")
    other = here.submit(documents(10))
    leader._looked_at = float("-inf")
    for _ in range(3):
        await leader.step()
    fed = await here.state(other)
    assert fed is not None
    assert fed.out_chunks == 10
    assert "vLLM" in str(await waits(here, stuck))


async def test_a_cancelled_job_keeps_its_lines_and_ends_the_others_as_cancelled(here: Place) -> None:
    job = here.submit(documents(200))
    leader = await here.lead()
    for _ in range(2):
        await leader.step()
    await here.work(most=2)
    batches = await here.client.hkeys(keys.job_batches(job.id))
    job.journal.change(lambda _: Entry(event=Event.CANCELLING, state=State.CANCELLING))
    leader._looked_at = float("-inf")
    await lead_to_the_end(here, job)
    found = lines(job)
    assert complete(job, 200)
    assert Counter(line["status"] for line in found) == {"ok": 32, "cancelled": 168}
    assert job.journal.last().state is State.CANCELLED
    assert job.journal.last().counts == {"ok": 32, "cancelled": 168}
    assert batches
    for batch in batches:
        assert await here.client.get(keys.cancelled(str(batch))) == "terminate"


async def test_an_item_that_was_read_in_part_when_its_job_is_cancelled_shows_what_was_read(here: Place) -> None:
    job = here.submit(long_documents(12), options=CUT)
    leader = await here.lead()
    for _ in range(2):
        await leader.step()
    await here.work(most=1)
    job.journal.change(lambda _: Entry(event=Event.CANCELLING, state=State.CANCELLING))
    leader._looked_at = float("-inf")
    await lead_to_the_end(here, job)
    assert complete(job, 12)
    assert "partial" in {line["status"] for line in lines(job)}


async def test_a_job_whose_time_is_up_ends_as_expired(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job = here.submit(documents(100), expires_s=3600)
    leader = await here.lead()
    for _ in range(2):
        await leader.step()
    await here.work(most=1)
    monkeypatch.setattr(Charge, "has_expired", property(lambda _: True))
    await lead_to_the_end(here, job)
    assert complete(job, 100)
    found = Counter(line["status"] for line in lines(job))
    assert found["expired"] >= 36
    assert found["ok"] + found["expired"] == 100
    assert job.journal.last().state is State.EXPIRED


async def test_a_job_that_fails_too_often_stops_until_it_is_resumed(here: Place) -> None:
    job = here.submit(documents(300), stop_window=20, stop_share=0.5)
    leader = await here.lead()
    for _ in range(20):
        await leader.step()
        await here.work(most=1, status=Status.FAILED)
    assert job.journal.last().state is State.STOPPED
    assert "HTTP 404" in str(job.journal.last().reason)
    assert "HTTP 404" in str(await waits(here, job))
    fed = len(here.asked[job.id])
    for _ in range(3):
        await leader.step()
    assert await here.work() == 0
    assert len(here.asked[job.id]) == fed < 300
    job.journal.change(lambda _: Entry(event=Event.RESUMED, state=State.IN_PROGRESS))
    leader._looked_at = float("-inf")
    await lead_to_the_end(here, job)
    assert complete(job, 300)
    assert job.journal.last().state is State.COMPLETED


async def test_a_wiped_redis_costs_no_more_than_what_was_not_collected(here: Place) -> None:
    job = here.submit(documents(200))
    leader = await here.lead()
    for _ in range(4):
        await leader.step()
        await here.work(most=1)
    on_disk = len(lines(job))
    assert on_disk > 0
    uncollected = len(here.asked[job.id]) - on_disk
    await here.client.flushall()
    await here.engine_is(Readiness.READY)
    await here.lead()
    await lead_to_the_end(here, job)
    assert complete(job, 200)
    assert len(here.asked[job.id]) <= 200 + uncollected


async def test_a_full_disk_stops_feeding_and_is_waited_for(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job = here.submit(documents(200))
    leader = await here.lead()
    for _ in range(2):
        await leader.step()

    def refuse(*_: object) -> None:
        raise SpoolFull("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", refuse)
        for _ in range(3):
            await here.work()
            await leader.step()
        assert await waits(here, job) == overseers.DISK_FULL
        assert await here.work() == 0
        assert len(here.asked[job.id]) == 64
    await lead_to_the_end(here, job)
    assert complete(job, 200)
    assert len(here.asked[job.id]) == 200


async def test_a_full_redis_stops_feeding_and_is_waited_for(here: Place) -> None:
    job = here.submit(documents(200))
    leader = await here.lead()
    for _ in range(2):
        await leader.step()
    await here.work(most=2)
    await here.client.config_set("maxmemory", 1)
    for _ in range(3):
        await leader.step()
    assert await waits(here, job) == overseers.REDIS_FULL
    assert len(lines(job)) == 32
    await here.client.config_set("maxmemory", 0)
    await lead_to_the_end(here, job)
    assert complete(job, 200)
    assert len(here.asked[job.id]) == 200


async def test_what_was_fed_and_is_nowhere_is_fed_again(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspicion, "STILL_S", 0.0)
    monkeypatch.setattr(suspicion, "AGAIN_S", 0.0)
    job = here.submit(documents(60))
    leader = await here.lead()
    for _ in range(2):
        await leader.step()
    await here.client.lpop("extraction", 2)
    await lead_to_the_end(here, job)
    assert complete(job, 60)
    assert len(here.asked[job.id]) == 60


async def test_what_ended_without_an_outcome_is_fed_again(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspicion, "STILL_S", 0.0)
    job = here.submit(documents(60))
    leader = await here.lead()
    for _ in range(2):
        await leader.step()
    await here.lose(1)
    await lead_to_the_end(here, job)
    assert complete(job, 60)
    assert len(here.asked[job.id]) == 60


async def test_what_waits_in_the_queue_or_with_a_worker_is_not_fed_again(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspicion, "STILL_S", 0.0)
    monkeypatch.setattr(suspicion, "AGAIN_S", 0.0)
    here.submit(documents(60))
    leader = await here.lead()
    await leader.step()
    await leader.step()
    await here.client.hset(keys.WORKER_QUEUES, "worker", "extraction")
    await here.client.lmove("extraction", keys.held("worker"), "RIGHT", "LEFT")
    before = await here.client.llen("extraction")
    for _ in range(5):
        await leader.step()
    assert await here.client.llen("extraction") == before


async def test_a_leader_whose_time_is_over_writes_nothing(here: Place) -> None:
    job = here.submit(documents(200))
    old = await here.lead()
    for _ in range(2):
        await old.step()
    await here.work(most=1)
    await here.client.delete(keys.CONTROLLER)
    await Leadership(here.client, "another").hold()
    with pytest.raises(Deposed):
        await old.step()
    await here.lead()
    await lead_to_the_end(here, job)
    assert complete(job, 200)
    assert len(here.asked[job.id]) == 200


async def test_a_leader_that_was_frozen_with_a_part_in_its_hands_adds_nothing_to_the_results(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = here.submit(documents(200))
    old, loop, write = await here.lead(), asyncio.get_running_loop(), Ledger.write
    for _ in range(2):
        await old.step()
    await here.work(most=1)

    async def take_over() -> None:
        new = await here.lead()
        await new.step()
        await new.step()

    def written_then_frozen(self: Ledger, gathered: Gathered) -> Part:
        monkeypatch.setattr(Ledger, "write", write)
        written = write(self, gathered)
        asyncio.run_coroutine_threadsafe(take_over(), loop).result()
        return written

    monkeypatch.setattr(Ledger, "write", written_then_frozen)
    with pytest.raises(Deposed):
        await old.step()
    assert len(ids(lines(job))) == len(lines(job)) == 16
    await lead_to_the_end(here, job)
    assert complete(job, 200)
    assert len(here.asked[job.id]) == 200


async def test_a_job_is_deleted_when_its_retention_is_over(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job = here.submit(documents(3))
    leader = await here.lead()
    await lead_to_the_end(here, job)
    await leader.step()
    now = time.time() + 31 * 86_400
    monkeypatch.setattr("aegis_workers.jobs.roll.time.time", lambda: now)
    leader._swept_at = float("-inf")
    await leader.step()
    assert not job.path.exists()


async def test_a_folder_that_cannot_be_read_hinders_no_other_job(here: Place) -> None:
    bad, good = here.submit(documents(3)), here.submit(documents(3))
    (bad.path / "manifest.json").write_text("{")
    await here.lead()
    await lead_to_the_end(here, good)
    assert complete(good, 3)


async def test_a_fault_of_this_program_in_one_job_hinders_no_other(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = here.submit(documents(3)), here.submit(documents(3))
    gather = Gatherer.gather

    def fails(self: Gatherer, outcomes: Sequence[Recorded], done: Bitmap) -> Gathered:
        if self._folder.id == bad.id:
            raise RuntimeError("a fault")
        return gather(self, outcomes, done)

    with monkeypatch.context() as patch:
        patch.setattr(Gatherer, "gather", fails)
        await here.lead()
        await lead_to_the_end(here, good)
    assert not bad.journal.last().state.is_terminal
    await here.lead()
    await lead_to_the_end(here, bad)
    assert complete(bad, 3)
    assert len(here.asked[bad.id]) == 3


async def test_a_job_that_redis_need_not_know_any_more_is_forgotten(here: Place) -> None:
    job = here.submit(documents(3))
    leader = await here.lead()
    await leader.step()
    shutil.rmtree(job.path)
    await (await here.lead()).step()
    assert await here.state(job) is None


async def test_a_job_that_somebody_closed_before_its_cancellation_was_read_is_not_opened_again(here: Place) -> None:
    job = here.submit(documents(200))
    leader = await here.lead()
    for _ in range(2):
        await leader.step()
    leader._looked_at = float("inf")
    job.journal.change(lambda _: Entry(event=Event.CANCELLING, state=State.CANCELLING))
    await here.client.hset(keys.job(job.id), "state", "closing")
    await leader.step()
    state = await here.state(job)
    assert state is None or state.state == "closing"
    await lead_to_the_end(here, job)
    assert job.journal.last().state is State.CANCELLED
