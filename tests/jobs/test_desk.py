"""What is asked of jobs on the host that has them: answered from the disk, with Redis or without."""

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import answered
import pytest
import redis

from aegis_workers.errors import InvalidInput, NotPossible, UnknownJob
from aegis_workers.jobs import pace
from aegis_workers.jobs.desk import NO_CONTROLLER
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.journal import Event, State
from aegis_workers.jobs.local import LocalDesk
from aegis_workers.jobs.parts import Parts
from aegis_workers.jobs.spool import Spool
from aegis_workers.outcome import Status
from aegis_workers.settings import Settings
from aegis_workers.state import cancels, keys
from aegis_workers.state.cancels import Cancel

OK, EMPTY, FAILED, INVALID = Status.OK, Status.EMPTY, Status.FAILED, Status.INVALID


@pytest.fixture
def alone(tmp_path: Path) -> Settings:
    """A data folder, and no Redis anywhere."""
    return Settings(_env_file=None, redis_url="redis://127.0.0.1:1/0", data_dir=tmp_path)


@pytest.fixture
def desk(alone: Settings) -> Iterator[LocalDesk]:
    with LocalDesk(alone) as opened:
        yield opened


@pytest.fixture
def with_redis(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"data_dir": tmp_path})


def test_a_job_shows_what_is_on_the_disk_while_redis_is_away(alone: Settings, desk: LocalDesk) -> None:
    job = answered.submitted(alone)
    answered.answer(job, {1: FAILED, 0: OK})
    view = desk.find(job.id)
    assert (view.state, view.done, view.failed, view.chunks_done) == (State.IN_PROGRESS, 2, 1, 2)
    assert view.items == {OK: 1, FAILED: 1}
    assert (view.totals.prompt_tokens, view.totals.calls) == (20, {"vllm": 2})
    assert view.waits is not None
    assert "does not answer" in view.waits
    assert [(error.message, error.count) for error in view.errors] == [("item-fatal: HTTP 404", 1)]


def test_a_job_that_has_ended_waits_for_nothing(alone: Settings, desk: LocalDesk) -> None:
    job = answered.finished(alone, OK, EMPTY)
    view = desk.find(job.id)
    assert (view.state, view.waits, view.failed, view.errors) == (State.COMPLETED, None, 0, ())
    assert view.ended_at == job.journal.last().at


def test_a_job_without_a_controller_says_so(with_redis: Settings, client: redis.Redis) -> None:
    job = answered.submitted(with_redis)
    with LocalDesk(with_redis) as desk:
        assert desk.find(job.id).waits == NO_CONTROLLER
        client.set(keys.CONTROLLER, "7:somewhere", ex=10)
        assert desk.find(job.id).waits is None
        client.hset(keys.job(job.id), mapping={"state": "open", "waits": "no engine is up", "out_chunks": 3})
        view = desk.find(job.id)
        assert (view.waits, view.in_flight) == ("no engine is up", 3)


def test_jobs_are_listed_page_by_page_the_newest_first(alone: Settings, desk: LocalDesk) -> None:
    ids = [answered.submitted(alone).id for _ in range(5)]
    first = desk.list(2)
    assert [view.id for view in first.jobs] == ids[:-3:-1]
    assert first.has_more
    rest = desk.list(3, first.jobs[-1].id)
    assert [view.id for view in rest.jobs] == ids[2::-1]
    assert not rest.has_more
    with pytest.raises(InvalidInput, match="from 1 to 100"):
        desk.list(0)


def test_a_job_is_found_by_its_beginning_and_by_the_word_last(alone: Settings, desk: LocalDesk) -> None:
    with pytest.raises(UnknownJob, match="no such job"):
        desk.resolve("last")
    first, second = answered.submitted(alone).id, answered.submitted(alone).id
    assert desk.resolve("last") == second
    assert desk.resolve(first) == first
    assert desk.resolve(first[:-1]) == desk.resolve(first.removeprefix("job_")[:-1]) == first
    with pytest.raises(UnknownJob, match="2 jobs begin like that"):
        desk.resolve("job_")
    for word in ("", "nothing", "../keys"):
        with pytest.raises(UnknownJob):
            desk.resolve(word)


def test_a_cancellation_is_written_down_whether_redis_is_there_or_not(alone: Settings, desk: LocalDesk) -> None:
    job = answered.submitted(alone)
    assert desk.cancel(job.id).state is State.CANCELLING
    assert desk.cancel(job.id).state is State.CANCELLING
    assert [entry.state for entry in job.journal.entries()] == [State.IN_PROGRESS, State.CANCELLING]
    ended = answered.finished(alone, OK)
    assert desk.cancel(ended.id).state is State.COMPLETED


def test_a_cancellation_reaches_the_batches_in_flight_at_once(with_redis: Settings, client: redis.Redis) -> None:
    job = answered.submitted(with_redis)
    client.hset(keys.job(job.id), mapping={"state": "open"})
    client.hset(keys.job_batches(job.id), mapping={f"{job.id}.{number}": "{}" for number in range(3)})
    with LocalDesk(with_redis) as desk:
        desk.cancel(job.id)
    assert client.hget(keys.job(job.id), "state") == "closing"
    assert {cancels.find(client, f"{job.id}.{number}") for number in range(3)} == {Cancel.TERMINATE}


def test_a_cancellation_makes_no_job_that_redis_does_not_know(with_redis: Settings, client: redis.Redis) -> None:
    job = answered.submitted(with_redis)
    with LocalDesk(with_redis) as desk:
        desk.cancel(job.id)
    assert not client.exists(keys.job(job.id))


def test_only_a_job_that_stopped_is_resumed(alone: Settings, desk: LocalDesk) -> None:
    job = answered.submitted(alone)
    with pytest.raises(NotPossible, match="not stopped: it is in_progress"):
        desk.resume(job.id)
    answered.enter(job, Event.STOPPED, State.STOPPED, reason="3 of the last 3 items failed")
    assert desk.find(job.id).waits == "3 of the last 3 items failed"
    assert desk.resume(job.id).state is State.IN_PROGRESS
    answered.end(job)
    with pytest.raises(NotPossible, match="has ended"):
        desk.resume(job.id)


def test_a_retry_has_the_items_that_did_not_end_well(alone: Settings, desk: LocalDesk) -> None:
    job = answered.finished(alone, OK, FAILED, EMPTY, INVALID)
    child = Spool(alone.data_dir).open(desk.retry(job.id))
    assert [item.custom_id for item in child.items()] == ["1", "3"]
    assert list(child.parents() or ()) == [1, 3]
    assert child.manifest.retry_of == job.id
    assert list(desk.find(job.id).retries) == [child.id]


def test_a_second_retry_has_what_the_first_one_left(alone: Settings, desk: LocalDesk) -> None:
    job = answered.finished(alone, FAILED, FAILED, OK, FAILED)
    first = Spool(alone.data_dir).open(desk.retry(job.id))
    with pytest.raises(NotPossible, match=f"being retried already, by {first.id}"):
        desk.retry(job.id)
    answered.answer(first, {0: OK, 1: FAILED, 2: OK})
    answered.end(first)
    second = Spool(alone.data_dir).open(desk.retry(job.id))
    assert [item.custom_id for item in second.items()] == ["1"]
    answered.answer(second, {0: OK})
    answered.end(second)
    with pytest.raises(NotPossible, match="nothing to retry"):
        desk.retry(job.id)


def test_what_is_no_job_to_retry_is_refused(alone: Settings, desk: LocalDesk) -> None:
    with pytest.raises(NotPossible, match="is in_progress: wait"):
        desk.retry(answered.submitted(alone).id)
    with pytest.raises(NotPossible, match="nothing to retry"):
        desk.retry(answered.finished(alone, OK, EMPTY).id)
    with pytest.raises(UnknownJob):
        desk.retry("job_" + 24 * "0")


def test_a_stopped_job_is_retried_as_far_as_it_came(alone: Settings, desk: LocalDesk) -> None:
    job = answered.submitted(alone)
    answered.answer(job, {1: FAILED})
    answered.enter(job, Event.STOPPED, State.STOPPED, reason="all fail")
    assert desk.find(desk.retry(job.id)).manifest.items == 1


def test_two_retries_at_once_are_one(alone: Settings) -> None:
    job = answered.finished(alone, FAILED, FAILED)
    begin = threading.Barrier(4)

    def ask(key: str | None) -> str:
        with LocalDesk(alone) as own:
            begin.wait()
            try:
                return own.retry(job.id, key=key)
            except NotPossible:
                return ""

    with ThreadPoolExecutor(4) as threads:
        without_key = list(threads.map(ask, [None] * 4))
    assert len(set(without_key) - {""}) == 1
    assert len(job.children()) == 1


def test_a_retry_by_the_same_key_is_the_same_retry(alone: Settings, desk: LocalDesk) -> None:
    job = answered.finished(alone, FAILED)
    child = desk.retry(job.id, key="again")
    assert desk.retry(job.id, key="again") == child
    answered.answer(Spool(alone.data_dir).open(child), {0: OK})
    answered.end(Spool(alone.data_dir).open(child))
    assert desk.retry(job.id, key="again") == child


def test_only_a_job_that_has_ended_is_deleted(alone: Settings, desk: LocalDesk) -> None:
    job = answered.submitted(alone)
    with pytest.raises(NotPossible, match="cancel it first"):
        desk.delete(job.id)
    answered.end(job, State.CANCELLED)
    desk.delete(job.id)
    with pytest.raises(UnknownJob):
        desk.find(job.id)
    assert desk.list().jobs == []


def found(desk: LocalDesk, job: JobFolder, *, ordered: bool = False, offset: str | None = None) -> list[tuple[str, str]]:
    """Id and offset of each line."""
    return [(json.loads(line.body)["custom_id"], line.offset) for line in desk.lines(job.id, ordered=ordered, offset=offset)]


def test_results_are_read_on_from_where_they_were_read_to(alone: Settings, desk: LocalDesk) -> None:
    job = answered.submitted(alone)
    answered.answer(job, {2: OK})
    ((custom_id, offset),) = found(desk, job)
    assert custom_id == "2"
    assert found(desk, job, ordered=True) == []
    answered.answer(job, {0: OK, 1: OK})
    assert [custom_id for custom_id, _ in found(desk, job, offset=offset)] == ["0", "1"]
    assert [custom_id for custom_id, _ in found(desk, job, ordered=True)] == ["0", "1", "2"]
    with pytest.raises(InvalidInput, match="offset"):
        found(desk, job, offset="elsewhere")


def test_a_retrys_line_takes_the_place_of_its_parents(alone: Settings, desk: LocalDesk) -> None:
    job = answered.finished(alone, OK, FAILED)
    child = Spool(alone.data_dir).open(desk.retry(job.id))
    answered.answer(child, {0: OK})
    lines = [json.loads(line.body) for line in desk.lines(job.id, ordered=True)]
    assert [(line["custom_id"], line["status"], line["job"]) for line in lines] == [("0", "ok", job.id), ("1", "ok", child.id)]


def test_whoever_follows_gets_lines_as_they_come_until_the_job_is_at_rest(alone: Settings, desk: LocalDesk) -> None:
    job = answered.submitted(alone)
    answered.answer(job, {0: OK})
    lines = desk.lines(job.id, follow=True)
    assert next(lines).status is OK
    answered.answer(job, {1: FAILED})
    assert next(lines).status is FAILED
    answered.answer(job, {2: OK})
    answered.end(job)
    assert [line.status for line in lines] == [OK]


def test_the_pace_does_not_count_the_time_before_the_first_line(alone: Settings) -> None:
    job = answered.submitted(alone, [f"text {number}" for number in range(60)])
    now, parts = time.time(), Parts(job)
    for start, ago_s in ((0, 30), (20, 15), (40, 0)):
        answered.answer(job, dict.fromkeys(range(start, start + 20), OK))
        os.utime(parts.path(parts.committed()[-1]), (now - ago_s, now - ago_s))
    assert pace.calls_per_s(parts, parts.committed(), since=now - 3600) == pytest.approx(40 / 30, rel=0.2)
    assert pace.calls_per_s(parts, parts.committed(), since=now - 20) == pytest.approx(40 / 20, rel=0.2)


def test_a_job_that_has_ended_keeps_its_pace(alone: Settings, desk: LocalDesk) -> None:
    job = answered.submitted(alone)
    answered.answer(job, {0: OK, 1: OK})
    answered.answer(job, {2: Status.CANCELLED}, message="cancelled")
    answered.end(job, State.CANCELLED)
    view = desk.find(job.id)
    took_s = max(job.journal.last().at - job.manifest.created_at, pace.LEAST_S)
    assert view.items_per_s == pytest.approx(2 / took_s)  # what was cancelled was never called
    assert view.tokens_per_s == pytest.approx(10 / took_s)
    assert (list(view.errors), view.remaining_s) == ([], None)
