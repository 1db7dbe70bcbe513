"""How the system stands over HTTP: at one moment, and as it goes."""

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import admin_place
import anyio
import httpx
import pytest
import redis
from admin_place import AdminPlace, texts
from installation import eventually

from aegis_workers.admin import feed as feeds
from aegis_workers.admin.feed import Feed
from aegis_workers.local.process import Process
from aegis_workers.settings import Settings
from aegis_workers.state import connection, keys, workers
from aegis_workers.state.workers import WorkerReport

API = "/api/v1/admin"
Event = tuple[str, dict[str, Any]]


@pytest.fixture
def place(tmp_path: Path, settings: Settings) -> Iterator[AdminPlace]:
    """A server with one engine, on a Redis that is empty but for the mode."""
    chosen = admin_place.chosen(tmp_path, redis_url=settings.redis_url, ollama_model="sim", vllm_api_key="planted")
    with admin_place.serving(chosen) as place, redis.Redis.from_url(settings.redis_url) as client:
        eventually(lambda: client.get(keys.MODE) == b"auto")  # the configured default
        yield place


@pytest.fixture
def http(place: AdminPlace) -> Iterator[httpx.Client]:
    with place.http() as http:
        yield http


def publish(settings: Settings, **facts: Any) -> None:
    """A worker has said what it does."""

    async def share() -> None:
        async with connection.open_async(settings) as client:
            await workers.publish(client, WorkerReport(worker_id="host:7:abc", queue="extraction", pid=7, **facts))

    anyio.run(share)


def submit(http: httpx.Client) -> str:
    """A job of two texts; nothing runs it."""
    file = http.post("/v1/files", files={"file": ("in.jsonl", texts(2))}, data={"purpose": "batch"}).json()
    made = http.post("/v1/batches", json={"input_file_id": file["id"], "endpoint": "/v1/extractions"})
    return str(made.json()["id"])


@contextmanager
def following(place: AdminPlace) -> Iterator[Iterator[Event]]:
    """The events of a listener, each with what it is called."""
    with place.http() as http, http.stream("GET", f"{API}/events", timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        yield ((line[len("event: ") :], json.loads(next(lines)[len("data: ") :])) for line in lines if line.startswith("event:"))


def until(events: Iterator[Event], name: str, **facts: Any) -> dict[str, Any]:
    """The next event of this name in which all of these hold."""
    return next(data for called, data in events if called == name and facts.items() <= data.items())


def test_the_overview_tells_of_engines_queues_jobs_workers_and_switches(
    http: httpx.Client, settings: Settings, client: redis.Redis
) -> None:
    job = submit(http)
    publish(settings, in_flight={"ollama": 2}, waiting={"waits for Ollama: starting": 3}, tokens_per_s={"ollama": 12.34})
    message = {"headers": {"aegis_enqueued_at": time.time() - 60}, "body": '"aegis_enqueued_at": 1'}
    client.lpush("chat", json.dumps(message), "{}")
    http.put(f"{API}/llm/engine", json={"mode": "ollama"})

    found = http.get(f"{API}/overview").json()

    assert (found["mode"], found["mode_problem"], found["controller"], found["memory"]) == ("ollama", None, None, None)
    assert found["profile"] == {"value": None, "origin": "default"}
    assert found["default_mode"] == {"value": "auto", "origin": "default"}
    ollama = found["engines"]["ollama"]
    assert (ollama["label"], ollama["in_flight"], ollama["limit"], ollama["tokens_per_s"]) == ("Ollama", 2, 4, 12.3)
    assert (ollama["health"], ollama["serves"], ollama["phase"], ollama["memory_gb"]) == ("unavailable", [], None, 24.0)
    assert found["engines"]["vllm"]["word"] == "Not configured"
    assert found["auto"] == {"available": False, "reason": "vLLM is not configured: set AEGIS_VLLM_MODEL"}
    extraction, chat, control = found["queues"]
    assert (extraction["length"], extraction["oldest_s"], extraction["waiting"]) == (0, None, {"waits for Ollama: starting": 3})
    assert (chat["name"], chat["length"], control["length"]) == ("chat", 2, 0)
    assert 60 <= chat["oldest_s"] < 120
    (row,) = found["jobs"]
    assert (row["id"], row["state"], row["items"], row["done"], row["items_per_s"]) == (job, "in_progress", 2, 0, None)
    (worker,) = found["workers"]
    assert (worker["host"], worker["pid"], worker["in_flight"]) == ("host", 7, {"ollama": 2})
    assert worker["seen_at"] == pytest.approx(time.time(), abs=60)
    (last, first) = found["switches"]
    assert (last["mode"], last["previous"], last["source"], last["phases"]) == ("ollama", "auto", "api", [])
    assert (first["mode"], first["previous"], first["source"]) == ("auto", None, "default")
    assert any(error.startswith("2 messages wait in the queue chat, and no worker takes from it") for error in found["errors"])
    assert any(error.startswith("no controller leads") for error in found["errors"])


def test_an_unknown_mode_in_the_key_is_among_what_is_wrong(http: httpx.Client, client: redis.Redis) -> None:
    client.set(keys.MODE, "turbo")
    found = http.get(f"{API}/overview").json()
    assert "turbo" in found["mode_problem"]
    assert found["errors"][0] == found["mode_problem"]


def test_parts_of_the_overview_can_be_asked_for_alone(http: httpx.Client, settings: Settings, client: redis.Redis) -> None:
    publish(settings)
    client.set(keys.MODE, "vllm")
    everything = http.get(f"{API}/overview").json()
    assert http.get(f"{API}/engines").json()["engines"] == everything["engines"]
    assert http.get(f"{API}/queues").json()["queues"] == everything["queues"]
    assert http.get(f"{API}/workers").json()["workers"] == everything["workers"]
    assert http.get(f"{API}/switches").json()["switches"] == everything["switches"]
    assert everything["switches"][0]["source"] == "raw"
    assert len(http.get(f"{API}/switches?limit=1").json()["switches"]) == 1
    assert http.get(f"{API}/switches?limit=0").status_code == 422


def test_settings_are_shown_with_their_origins_and_without_secrets(http: httpx.Client) -> None:
    answer = http.get(f"{API}/settings")
    found = {setting["name"]: setting for setting in answer.json()["settings"]}
    assert found["AEGIS_FALLBACK"] == {"name": "AEGIS_FALLBACK", "value": "degrade", "origin": "default"}
    assert found["AEGIS_VLLM_API_KEY"]["value"] == found["AEGIS_ADMIN_TOKEN"]["value"] == "********"
    assert "planted" not in answer.text
    assert admin_place.TOKEN not in answer.text


def test_a_job_is_shown_and_cancelled(http: httpx.Client) -> None:
    job = submit(http)
    assert [row["id"] for row in http.get(f"{API}/jobs").json()["jobs"]] == [job]
    assert http.get(f"{API}/jobs/{job}").json()["items"] == 2
    assert http.post(f"{API}/jobs/{job}/resume").json()["error"]["code"] == "not_possible"
    assert http.post(f"{API}/jobs/{job}/cancel").json()["state"] == "cancelling"
    assert http.post(f"{API}/jobs/{job}/retry").status_code == 400
    assert http.get(f"{API}/jobs?after={job}").json() == {"jobs": [], "has_more": False}


def test_a_job_that_is_not_there_is_called_a_job(http: httpx.Client) -> None:
    for answer in (
        http.get(f"{API}/jobs/job_0"),
        *(http.post(f"{API}/jobs/job_0/{act}") for act in ("cancel", "resume", "retry")),
    ):
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "job_id")
        assert "no job" in answer.json()["error"]["message"]


def test_a_listener_is_told_of_a_switch_whoever_makes_it(place: AdminPlace, http: httpx.Client, client: redis.Redis) -> None:
    with following(place) as events:
        assert until(events, "overview")["mode"] == "auto"
        http.put(f"{API}/llm/engine", json={"mode": "vllm"})
        until(events, "overview", mode="vllm")
        client.set(keys.MODE, "ollama")
        assert until(events, "overview", mode="ollama")["switches"][0]["source"] == "raw"


def test_a_listener_learns_that_redis_is_gone_and_back(tmp_path: Path, own_redis: tuple[Process, Settings]) -> None:
    child, settings = own_redis
    with admin_place.serving(admin_place.chosen(tmp_path, redis_url=settings.redis_url)) as place, following(place) as events:
        until(events, "overview")
        child.popen.send_signal(signal.SIGSTOP)
        try:
            assert "does not answer" in until(events, "problem")["message"]
        finally:
            child.popen.send_signal(signal.SIGCONT)
        until(events, "overview")


def test_many_listeners_are_served_by_one_look(place: AdminPlace, client: redis.Redis) -> None:
    def looks() -> int:
        return int(client.info("commandstats").get("cmdstat_lindex", {"calls": 0})["calls"])

    with following(place) as first, following(place) as second, following(place) as third:
        for events in (first, second, third):
            until(events, "overview")
        before, began = looks(), time.monotonic()
        for mode in ("vllm", "ollama"):
            client.set(keys.MODE, mode)
            for events in (first, second, third):
                until(events, "overview", mode=mode)
        most = (time.monotonic() - began) / feeds.LOOK_EVERY_S + 2
        assert (looks() - before) / 3 <= most  # it asks what is next in three queues

    def is_quiet() -> bool:
        before = looks()
        time.sleep(2 * feeds.LOOK_EVERY_S)
        return looks() == before

    eventually(is_quiet)


def test_silence_is_broken_by_beats_and_by_what_has_not_changed(place: AdminPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "BEAT_EVERY_S", 0.05)
    monkeypatch.setattr(feeds, "SAY_EVERY_S", 0.6)
    with place.http() as http, http.stream("GET", f"{API}/events", timeout=30) as answer:
        lines = answer.iter_lines()
        first = json.loads(next(line for line in lines if line.startswith("data:"))[6:])
        assert next(line for line in lines if line) == ": beat"
        again = json.loads(next(line for line in lines if line.startswith("data:"))[6:])
    assert {name: value for name, value in first.items() if name != "now"} == {
        name: value for name, value in again.items() if name != "now"
    }


def test_a_server_that_stops_does_not_wait_for_its_listeners(tmp_path: Path, settings: Settings) -> None:
    chosen = admin_place.chosen(tmp_path, redis_url=settings.redis_url, shutdown_grace_s=60)
    with admin_place.serving(chosen) as place, place.http() as http, http.stream("GET", f"{API}/events") as answer:
        next(answer.iter_lines())
        stopped_at = time.monotonic()
    assert time.monotonic() - stopped_at < 20


def test_a_frozen_redis_holds_up_nobody_however_many_ask(tmp_path: Path, own_redis: tuple[Process, Settings]) -> None:
    child, settings = own_redis
    with (
        admin_place.serving(admin_place.chosen(tmp_path, redis_url=settings.redis_url)) as place,
        place.http() as http,
        ThreadPoolExecutor(100) as pool,
    ):
        assert http.get("/readyz").json() == {"status": "ok"}
        child.popen.send_signal(signal.SIGSTOP)
        try:
            answers = list(pool.map(lambda _: http.get(f"{API}/overview"), range(200)))
            assert {answer.status_code for answer in answers} == {503}
            assert sorted(answer.elapsed.total_seconds() for answer in answers)[150] < 4
            assert http.get("/healthz").is_success
            assert http.get("/readyz").json()["error"]["code"] == "redis_unavailable"
        finally:
            child.popen.send_signal(signal.SIGCONT)
        eventually(lambda: http.get("/readyz").is_success)


def test_a_server_starts_without_redis_and_writes_the_default_when_it_comes(
    tmp_path: Path, own_redis: tuple[Process, Settings]
) -> None:
    child, settings = own_redis
    child.popen.send_signal(signal.SIGSTOP)
    chosen = admin_place.chosen(tmp_path, redis_url=settings.redis_url, llm_engine_mode="vllm")
    with admin_place.serving(chosen) as place, place.http(None) as http:
        eventually(lambda: http.get("/healthz").is_success)
        assert http.get("/readyz").status_code == 503
        child.popen.send_signal(signal.SIGCONT)
        with connection.open_sync(settings) as client:
            eventually(lambda: client.get(keys.MODE) == "vllm")


def test_a_server_that_starts_leaves_the_operators_mode(tmp_path: Path, settings: Settings, client: redis.Redis) -> None:
    client.set(keys.MODE, "ollama")
    chosen = admin_place.chosen(tmp_path, redis_url=settings.redis_url, llm_engine_mode="vllm")
    with admin_place.serving(chosen) as place, place.http() as http:
        assert http.get(f"{API}/llm/engine").json()["mode"] == "ollama"
    assert client.get(keys.MODE) == "ollama"


@pytest.mark.anyio
async def test_who_listens_to_a_closed_feed_comes_to_its_end(tmp_path: Path) -> None:
    from aegis_workers.admin import application  # noqa: PLC0415
    from aegis_workers.jobs.local import LocalDesk  # noqa: PLC0415

    settings = admin_place.chosen(tmp_path)
    with LocalDesk(settings) as desk:
        feed: Feed = application.build(settings, desk).state.place.feed
        feed.close()
        assert [event async for event in feed.listen()] == []
