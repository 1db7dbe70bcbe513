"""The engine mode and the engines' health over HTTP."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import admin_place
import anyio
import httpx
import pytest
import redis
from installation import eventually

from aegis_workers.engines.base import Readiness
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import connection, engine_status, keys, workers
from aegis_workers.state.engine_status import ReplicaStatus
from aegis_workers.state.workers import WorkerReport

ENGINE = "/api/v1/admin/llm/engine"
BOTH: dict[str, Any] = {"vllm_model": "sim", "ollama_model": "sim"}


@pytest.fixture
def http(tmp_path: Path, settings: Settings) -> Iterator[httpx.Client]:
    """Of a server with both engines, on a Redis that is empty."""
    chosen = admin_place.chosen(tmp_path, redis_url=settings.redis_url, **BOTH)
    with admin_place.serving(chosen) as place, place.http() as http, redis.Redis.from_url(settings.redis_url) as client:
        eventually(lambda: client.get(keys.MODE) == b"auto")  # the configured default
        yield http


def found(settings: Settings, engine: Engine, state: Readiness, reason: str = "", age_s: float = 0.0) -> None:
    """A worker has looked at an engine."""
    replica = ReplicaStatus(url=f"http://{engine}", state=state, reason=reason)

    async def share() -> None:
        async with connection.open_async(settings) as client:
            await engine_status.report(client, engine, [replica], complete=True, now=time.time() - age_s)

    anyio.run(share)


def worked(settings: Settings, **facts: Any) -> None:
    """A worker has said what it does."""

    async def share() -> None:
        async with connection.open_async(settings) as client:
            await workers.publish(client, WorkerReport(worker_id="host:7:abc", queue="extraction", pid=7, **facts))

    anyio.run(share)


def test_a_ready_engine_is_ok_with_what_its_calls_measured(http: httpx.Client, settings: Settings) -> None:
    http.put(ENGINE, json={"mode": "auto"})
    found(settings, Engine.OLLAMA, Readiness.READY)
    found(settings, Engine.VLLM, Readiness.UNAVAILABLE, "nobody listens there")
    assert http.get(ENGINE).json() == {
        "mode": "auto",
        "health": {"ollama": "ok", "vllm": "unavailable", "vllm_reason": "nobody listens there"},
    }
    worked(settings, tokens_per_s={"ollama": 40.6, "vllm": 3.0})
    assert http.get(ENGINE).json()["health"]["ollama_throughput"] == "41 tok/s"
    assert "vllm_throughput" not in http.get(ENGINE).json()["health"]


def test_an_engine_that_the_mode_does_not_use_is_disabled_until_work_falls_back_to_it(
    http: httpx.Client, settings: Settings
) -> None:
    http.put(ENGINE, json={"mode": "vllm"})
    found(settings, Engine.OLLAMA, Readiness.READY)
    found(settings, Engine.VLLM, Readiness.READY)
    health = http.get(ENGINE).json()["health"]
    assert (health["vllm"], health["ollama"], health["ollama_reason"]) == ("ok", "disabled", "Not used (mode vllm)")
    found(settings, Engine.VLLM, Readiness.STARTING, "loading")
    health = http.get(ENGINE).json()["health"]
    assert (health["vllm"], health["vllm_reason"], health["ollama"]) == ("starting", "loading", "ok")


def test_a_reason_names_the_profile_that_chose_the_mode(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLM_ENGINE_MODE", raising=False)
    chosen = admin_place.chosen(tmp_path, redis_url=settings.redis_url, deployment_profile="chat_only", **BOTH)
    with admin_place.serving(chosen) as place, place.http() as http:
        answer = http.get(ENGINE).json()
    assert answer["mode"] == "ollama"
    assert answer["health"]["vllm_reason"] == "Not started (config: PROFILE=chat_only)"


def test_what_nobody_looks_at_any_more_is_not_ok(http: httpx.Client, settings: Settings) -> None:
    http.put(ENGINE, json={"mode": "auto"})
    found(settings, Engine.OLLAMA, Readiness.READY, age_s=60)
    health = http.get(ENGINE).json()["health"]
    assert (health["ollama"], health["ollama_reason"]) == ("unavailable", "nobody looks at it: a worker does so while it runs")


def test_an_engine_without_a_model_is_not_configured(tmp_path: Path, settings: Settings) -> None:
    with admin_place.serving(admin_place.chosen(tmp_path, redis_url=settings.redis_url)) as place, place.http() as http:
        health = http.get(ENGINE).json()["health"]
    assert (health["vllm"], health["vllm_reason"]) == ("not_configured", "AEGIS_VLLM_MODEL is not set")


def test_a_switch_says_what_it_replaced(http: httpx.Client, client: redis.Redis) -> None:
    assert http.put(ENGINE, json={"mode": "vllm"}).json() == {"mode": "vllm", "previous": "auto"}
    assert http.put(ENGINE, json={"mode": " Ollama\n"}).json() == {"mode": "ollama", "previous": "vllm"}
    assert client.get(keys.MODE) == "ollama"
    assert http.get(ENGINE).json()["mode"] == "ollama"


@pytest.mark.parametrize("body", [b'{"mode": "turbo"}', b'{"mode": 7}', b"{}", b'{"mode": "vllm", "more": 1}', b"[", b""])
def test_a_bad_mode_is_refused_and_changes_nothing(http: httpx.Client, client: redis.Redis, body: bytes) -> None:
    answer = http.put(ENGINE, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert client.get(keys.MODE) == "auto"
    if b"turbo" in body:
        assert answer.json()["error"]["param"] == "mode"
        assert all(word in answer.json()["error"]["message"] for word in ("vllm", "ollama", "auto"))


def test_a_prospect_is_what_the_dry_run_says(http: httpx.Client, client: redis.Redis) -> None:
    answer = http.get(f"{ENGINE}/prospect", params={"mode": "VLLM"}).json()
    assert (answer["mode"], answer["dry_run"], answer["engines"]["vllm"]["act"]) == ("vllm", True, "await")
    assert client.get(keys.MODE) == "auto"
    assert http.get(f"{ENGINE}/prospect", params={"mode": "turbo"}).status_code == 422


def test_without_redis_the_reason_is_told_at_once(tmp_path: Path) -> None:
    with admin_place.serving(admin_place.chosen(tmp_path)) as place, place.http() as http:
        answers = [http.get(ENGINE), http.put(ENGINE, json={"mode": "auto"}), http.get(f"{ENGINE}/prospect?mode=auto")]
    for answer in answers:
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "redis_unavailable"
        assert "does not answer" in answer.json()["error"]["message"]


def test_a_frozen_redis_does_not_hold_up_who_asks(tmp_path: Path, own_redis: tuple[Process, Settings]) -> None:
    child, settings = own_redis
    with admin_place.serving(admin_place.chosen(tmp_path, redis_url=settings.redis_url)) as place, place.http() as http:
        assert http.get(ENGINE).is_success
        child.popen.send_signal(signal.SIGSTOP)
        try:
            answer = http.get(ENGINE, timeout=4)
        finally:
            child.popen.send_signal(signal.SIGCONT)
        assert answer.status_code == 503
        eventually(lambda: http.get(ENGINE).is_success)
