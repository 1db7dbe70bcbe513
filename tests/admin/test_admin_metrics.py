"""`/metrics` of the admin API: the whole system, whatever of it is away."""

import signal
import time
from pathlib import Path

import admin_place
import pytest
from admin_place import TOKEN
from celery import Celery
from installation import forget_results

from aegis_workers.jobs import submission
from aegis_workers.jobs.local import LocalDesk
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms
from aegis_workers.local.process import Process
from aegis_workers.settings import Settings
from aegis_workers.state import connection, keys

RedisHere = tuple[Process, Settings]


def chosen(own_redis: RedisHere, tmp_path: Path) -> Settings:
    return admin_place.chosen(tmp_path, redis_url=own_redis[1].redis_url, vllm_model="sim")


def test_who_brings_no_token_sees_nothing(tmp_path: Path) -> None:
    with admin_place.serving(admin_place.chosen(tmp_path)) as place, place.http(None) as http:
        assert http.get("/metrics").status_code == 401
        assert "aegis_" not in http.get("/metrics", headers={"Authorization": f"Bearer not {TOKEN}"}).text


def test_a_redis_that_is_away_is_said_to_be_away(tmp_path: Path) -> None:
    with admin_place.serving(admin_place.chosen(tmp_path)) as place, place.http() as http:
        answer = http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "aegis_redis_up 0.0" in answer.text
    assert "aegis_queue_messages" not in answer.text
    assert "aegis_data_folder_up 1.0" in answer.text
    assert "process_resident_memory_bytes" in answer.text


def test_a_redis_that_hangs_holds_up_no_scrape(own_redis: RedisHere, tmp_path: Path) -> None:
    server, _ = own_redis
    with admin_place.serving(chosen(own_redis, tmp_path)) as place, place.http() as http:
        assert "aegis_redis_up 1.0" in http.get("/metrics").text
        server.popen.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert "aegis_redis_up 0.0" in http.get("/metrics").text
            assert time.monotonic() - began < 8
        finally:
            server.popen.send_signal(signal.SIGCONT)
        assert "aegis_redis_up 1.0" in http.get("/metrics").text


def test_queues_have_their_length_and_age_whoever_filled_them(own_redis: RedisHere, tmp_path: Path) -> None:
    settings = chosen(own_redis, tmp_path)
    producer = Celery("producer", broker=settings.redis_url, backend=settings.redis_url)
    for queue, headers in (("chat", {"aegis_enqueued_at": time.time() - 500}), ("extraction", {})):
        producer.send_task("aegis.chat", kwargs={}, queue=queue, headers=headers)
    with admin_place.serving(settings) as place, place.http() as http:
        first = values(http.get("/metrics").text)
        time.sleep(0.05)  # what is looked at twice was there in between
        second = values(http.get("/metrics").text)
    forget_results(producer)
    assert first['aegis_queue_messages{queue="chat"}'] == first['aegis_queue_messages{queue="extraction"}'] == 1
    assert first['aegis_queue_messages{queue="control"}'] == first['aegis_queue_oldest_seconds{queue="control"}'] == 0
    assert 500 <= first['aegis_queue_oldest_seconds{queue="chat"}'] < 560
    assert first['aegis_queue_oldest_seconds{queue="extraction"}'] == 0
    assert second['aegis_queue_oldest_seconds{queue="extraction"}'] >= 0.05
    assert first['aegis_workers{queue="chat"}'] == 0


def values(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")}


def test_a_worker_that_was_silent_for_too_long_does_not_count(own_redis: RedisHere, tmp_path: Path) -> None:
    settings = chosen(own_redis, tmp_path)
    with admin_place.serving(settings) as place, place.http() as http, connection.open_sync(settings) as client:
        now_ms = time.time() * 1000
        client.zadd(keys.ALIVE, {"one": now_ms, "two": now_ms - 60_000})
        client.hset(keys.WORKER_QUEUES, mapping={"one": "chat", "two": "chat"})
        assert values(http.get("/metrics").text)['aegis_workers{queue="chat"}'] == 1


def test_a_mode_that_is_none_an_engine_and_what_is_set_aside_are_shown(own_redis: RedisHere, tmp_path: Path) -> None:
    settings = chosen(own_redis, tmp_path)
    with admin_place.serving(settings) as place, place.http() as http, connection.open_sync(settings) as client:
        client.set(keys.MODE, "a user's text")
        client.hset(keys.ASIDE, "task", "{}")
        shown = http.get("/metrics").text
    found = values(shown)
    assert found["aegis_mode_problem"] == 1
    assert found['aegis_mode{mode="auto"}'] == 1
    assert found["aegis_calls_set_aside"] == 1
    assert found["aegis_controllers_leading"] == 0
    assert found['aegis_engine_state{engine="vllm",state="unavailable"}'] == 1
    assert found['aegis_engine_state{engine="ollama",state="not_configured"}'] == 1
    assert found['aegis_engine_calls_limit{engine="vllm"}'] == 256
    assert found['aegis_engine_calls_limit{engine="ollama"}'] == 0
    assert "user" not in shown.replace("Total user and system CPU time", "")


def test_jobs_are_counted_by_their_state(tmp_path: Path) -> None:
    settings = admin_place.chosen(tmp_path)
    spool = Spool(settings.data_dir)
    with admin_place.serving(settings) as place, place.http() as http:
        jobs = [submission.write(spool, Items(items=[("one", "A text.")]), Terms(), settings).job for _ in range(3)]
        before = values(http.get("/metrics").text)
        assert sum(value for name, value in before.items() if name.startswith("aegis_jobs{")) == 3
        for job in jobs[:2]:
            with LocalDesk(settings) as desk:
                desk.cancel(job.id)
        assert values(http.get("/metrics").text)['aegis_jobs{state="cancelling"}'] == 2


@pytest.mark.parametrize("damage", ["a file", "a loop"])
def test_a_data_folder_that_cannot_be_read_is_said_to_be_away(tmp_path: Path, damage: str) -> None:
    settings = admin_place.chosen(tmp_path)
    settings.data_dir.mkdir()
    jobs = settings.data_dir / "jobs"
    jobs.write_text("") if damage == "a file" else jobs.symlink_to(jobs)
    with admin_place.serving(settings) as place, place.http() as http:
        assert "aegis_data_folder_up 0.0" in http.get("/metrics").text
