"""What workers do to engines when they start: load what the mode will use, once, and wait for nothing."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from installation import Installation, eventually, installed

from aegis_workers.routing import Engine

KEEP_ALIVE_S = 7 * 60
LOADING = ("--start-seconds", "0.5")  # longer than three workers need to get in each other's way
NO_VLLM: Mapping[str, Any] = {"vllm_url": ("http://127.0.0.1:1",)}
STARTING = ("--start-seconds", "600")
BOTH_FIT: Mapping[str, Any] = {"memory_budget_gb": 100, "vllm_memory_gb": 41, "ollama_memory_gb": 24}
TOO_SMALL: Mapping[str, Any] = {**BOTH_FIT, "memory_budget_gb": 50}


def loaded(place: Installation) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = httpx.get(f"{place.settings.ollama_url[0]}/api/ps").json()["models"]
    return models


def logged(place: Installation, event: str) -> int:
    return place.worker_logs().count(f'"event": "{event}"')


@pytest.mark.parametrize("mode", ["ollama", "auto"])
def test_the_model_is_loaded_once_over_all_workers_as_calls_will_want_it(tmp_path: Path, mode: str) -> None:
    as_set: Mapping[str, Any] = {**NO_VLLM, "llm_engine_mode": mode, "ollama_keep_alive": "7m", "ollama_num_ctx": 2048}
    with installed(tmp_path, "extraction", "chat", "control", ollama=LOADING, await_engines=False, **as_set) as place:
        (model,) = eventually(lambda: loaded(place))

        assert (model["name"], model["context_length"]) == ("sim:latest", 2048)
        left = datetime.fromisoformat(model["expires_at"][:26] + "+00:00").timestamp() - datetime.now().astimezone().timestamp()
        assert KEEP_ALIVE_S - 60 < left <= KEEP_ALIVE_S + 1
        assert place.stats(Engine.OLLAMA)["requests"] == 0

        assert place.chat().get(timeout=20)["engine"] == "ollama"
        assert place.send("aegis.extract", text="Ada met Bo.").get(timeout=20)["engine"] == "ollama"
        assert place.stats(Engine.OLLAMA)["loads"] == 1
        assert logged(place, "warm_up.finished") == 1


@pytest.mark.parametrize(
    ("why", "settings"),
    [
        ("mode vllm does not use it", {**NO_VLLM, "llm_engine_mode": "vllm"}),
        ("a vLLM answers and no budget says that both fit", {"llm_engine_mode": "auto"}),
        ("a vLLM answers and the budget is too small for both", {"llm_engine_mode": "ollama", **TOO_SMALL}),
    ],
)
def test_the_model_is_not_loaded_where(tmp_path: Path, why: str, settings: Mapping[str, Any]) -> None:
    del why
    with installed(tmp_path, "chat", await_engines=False, **settings) as place:
        eventually(lambda: logged(place, "warm_up.skipped") == 1)
        assert loaded(place) == []
        assert place.stats(Engine.OLLAMA)["loads"] == 0


def test_the_model_is_loaded_beside_a_vllm_where_both_fit(tmp_path: Path) -> None:
    with installed(tmp_path, "extraction", llm_engine_mode="auto", **BOTH_FIT) as place:
        assert eventually(lambda: loaded(place))
        assert place.stats(Engine.OLLAMA)["loads"] == 1


@pytest.fixture
def starting(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """Workers that are ready while vLLM is not."""
    queues = ("extraction", "chat")
    with installed(
        tmp_path, *queues, vllm=STARTING, await_engines=False, llm_engine_mode="vllm", fallback=request.param
    ) as place:
        place.await_engines(Engine.OLLAMA)
        yield place


@pytest.mark.parametrize("starting", ["degrade"], indirect=True)
def test_while_vllm_starts_extraction_is_served_by_ollama(starting: Installation) -> None:
    outcome = starting.send("aegis.extract", text="Ada met Bo.").get(timeout=20)
    assert outcome["engine"] == "ollama"
    assert outcome["calls"][0]["reason"].startswith("vLLM is first for extraction in mode vllm but")
    assert "fell back to Ollama" in outcome["calls"][0]["reason"]


@pytest.mark.parametrize("starting", ["hold"], indirect=True)
def test_while_vllm_starts_calls_wait_for_it_where_the_policy_is_to_hold(starting: Installation) -> None:
    error = starting.send("aegis.extract", text="Ada met Bo.", options={"deadline_s": 1}).get(timeout=20, propagate=False)
    assert type(error).__name__ == "DeadlineExceeded"
    assert "waits for vLLM" in str(error)
    assert starting.stats(Engine.OLLAMA)["requests"] == 0


def test_workers_take_vllm_as_soon_as_it_has_started(tmp_path: Path) -> None:
    soon = ("--start-seconds", "5")
    with installed(tmp_path, "extraction", vllm=soon, await_engines=False, llm_engine_mode="vllm", fallback="hold") as place:
        held = place.send("aegis.extract", text="Ada met Bo.")
        assert held.state in {"PENDING", "STARTED"}
        assert held.get(timeout=20)["engine"] == "vllm"
        assert place.stats(Engine.OLLAMA)["requests"] == 0
