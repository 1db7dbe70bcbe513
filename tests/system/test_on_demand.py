"""A vLLM that runs only while there is extraction to do, as the controller starts and ends it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from installation import eventually
from memory_host import EngineHost, engine_host

from aegis_workers.routing import Engine

pytestmark = pytest.mark.timeout(120)

VLLM = Engine.VLLM


@pytest.fixture
def host(tmp_path: Path) -> Iterator[EngineHost]:
    """In mode `vllm` on a memory for one engine, with nothing to do."""
    with engine_host(tmp_path, llm_engine_mode="vllm", vllm_on_demand=True, vllm_idle_s=2.0) as host:
        host.lead()
        host.await_settled()
        yield host


def waiting(host: EngineHost) -> dict[str, int]:
    found: dict[str, int] = json.loads(host.place.cli("engines", "--json").stdout)["waiting"]
    return found


def test_extraction_starts_a_vllm_that_runs_on_demand_and_idleness_ends_it(host: EngineHost) -> None:
    assert host.control(VLLM)["reason"] == "Not started (on demand, by AEGIS_VLLM_ON_DEMAND: no extraction work)"
    for _ in range(2):
        assert host.place.send("aegis.extract", text="Ada Stone met Bo Hill.").get(timeout=40)["engine"] == "vllm"
        assert len(host.engine_pids()) == 1
        host.await_phase(VLLM, "stopped")
        assert host.engine_pids() == []


def test_a_chat_does_not_start_a_vllm_that_runs_on_demand_and_is_served_once_extraction_has(host: EngineHost) -> None:
    chat = host.place.chat()
    eventually(lambda: any("on demand" in reason for reason in waiting(host)))
    assert host.control(VLLM)["phase"] == "stopped"
    assert host.engine_pids() == []
    host.place.send("aegis.extract", text="Ada Stone met Bo Hill.")
    assert chat.get(timeout=40)["engine"] == "vllm"


def test_a_vllm_that_runs_on_demand_comes_and_goes_though_redis_was_away(host: EngineHost) -> None:
    extraction = host.place.send("aegis.extract", text="Ada Stone met Bo Hill.")
    host.await_phase(VLLM, "starting", "warming", "ready")
    host.place.restart_redis(away_s=2)
    stored = eventually(lambda: host.place.redis.get(f"celery-task-meta-{extraction.id}"), within_s=40)
    assert json.loads(stored)["result"]["engine"] == "vllm"
    host.await_phase(VLLM, "stopped")
    assert host.engine_pids() == []
