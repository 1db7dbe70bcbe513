"""Single workers of the image under pytest-celery: Redis as its broker, and a simulator as the engine."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult
from container_fixtures import IMAGE
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBroker,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
    CeleryWorkerContainer,
    RedisTestBroker,
)
from pytest_docker_tools import container, fxtr

MODEL = "sim"
CALL_S = 3.0
WITHIN_S = 60


class AegisWorker(CeleryWorkerContainer):  # type: ignore[misc] # it ships no types
    """A worker of the image itself, to which nothing is added."""

    @classmethod
    def worker_queue(cls) -> str:
        return "extraction"

    @classmethod
    def worker_name(cls) -> str:
        return cls.worker_queue()

    @classmethod
    def command(cls, *args: str, **_: Any) -> list[str]:
        node = f"{cls.worker_name()}@%h"
        return ["celery", "-A", "aegis_workers", "worker", "-Q", cls.worker_queue(), "-n", node, "-l", "info", *args]

    def ready(self) -> bool:
        well = ["aegis-workers", "health", self.worker_name()]
        return bool(super().ready() and self.exec_run(well).exit_code == 0)


class ChatWorker(AegisWorker):
    """The same for the other queue."""

    @classmethod
    def worker_queue(cls) -> str:
        return "chat"


HARDENED = {"read_only": True, "cap_drop": ["ALL"], "tmpfs": {"/tmp": ""}, "init": True}  # noqa: S108 - in the container

engine = container(
    image=IMAGE,
    command=["aegis-workers", "simulate", "vllm", "--host", "0.0.0.0", "--port", "8000", "--call-seconds", str(CALL_S)],  # noqa: S104
    network="{default_pytest_celery_network.name}",
    **HARDENED,
)
extraction_container = container(
    image=IMAGE,
    command=AegisWorker.command(),
    environment=fxtr("default_worker_env"),
    network="{default_pytest_celery_network.name}",
    wrapper_class=AegisWorker,
    timeout=WITHIN_S,
    **HARDENED,
)
chat_container = container(
    image=IMAGE,
    command=ChatWorker.command(),
    environment=fxtr("default_worker_env"),
    network="{default_pytest_celery_network.name}",
    wrapper_class=ChatWorker,
    timeout=WITHIN_S,
    **HARDENED,
)


@pytest.fixture
def default_redis_broker_image() -> str:
    return "redis:7-bookworm"


@pytest.fixture
def celery_broker(celery_redis_broker: RedisTestBroker) -> CeleryTestBroker:
    return celery_redis_broker


@pytest.fixture
def celery_broker_cluster_config(celery_broker_cluster: CeleryBrokerCluster) -> dict[str, Any]:
    """Where tests run in a container themselves, another one's port is not on localhost, as pytest-celery has it."""
    reached = [node.container.get_addr("6379/tcp") for node in celery_broker_cluster]
    return {**celery_broker_cluster.config(), "host_urls": [f"redis://{host}:{port}/0" for host, port in reached]}


@pytest.fixture
def celery_backend_cluster() -> CeleryBackendCluster | None:
    """The broker keeps the results too."""
    return None


@pytest.fixture
def celery_backend_cluster_config(celery_broker_cluster_config: dict[str, Any]) -> dict[str, Any]:
    return celery_broker_cluster_config


@pytest.fixture
def default_worker_env(celery_worker_cluster_config: Mapping[str, Any], engine: Any) -> dict[str, str]:
    """Settings as any installation has them: nothing of Celery's own."""
    [url] = celery_worker_cluster_config["celery_broker_cluster_config"]["urls"]
    return {"AEGIS_REDIS_URL": url, "AEGIS_VLLM_URL": f"http://{engine.ips.primary}:8000", "AEGIS_VLLM_MODEL": MODEL}


@pytest.fixture
def celery_worker_cluster(
    extraction_container: AegisWorker, chat_container: ChatWorker, celery_setup_app: Celery
) -> Iterator[CeleryWorkerCluster]:
    nodes = [CeleryTestWorker(one, app=celery_setup_app) for one in (extraction_container, chat_container)]
    cluster = CeleryWorkerCluster(*nodes)
    yield cluster
    cluster.teardown()


def send(setup: CeleryTestSetup, name: str, queue: str, **arguments: Any) -> AsyncResult:
    """Enqueued by name, as a pipeline does that has only Celery."""
    return setup.app.send_task(name, kwargs={**arguments, "version": 1}, queue=queue)


def extract(setup: CeleryTestSetup) -> AsyncResult:
    return send(setup, "aegis.extract", "extraction", text="Ada Stone leads Brightwater Labs in Oslo.")


def test_the_image_extracts_and_chats(celery_setup: CeleryTestSetup) -> None:
    extracted = extract(celery_setup)
    chatted = send(celery_setup, "aegis.chat", "chat", messages=[{"role": "user", "content": "How does a heat pump work?"}])
    result = extracted.get(timeout=WITHIN_S)
    assert (result["status"], result["engine"], result["attempts"]) == ("ok", "vllm", 1)
    assert "Ada Stone" in {entity["name"] for entity in result["data"]["entities"]}
    answer = chatted.get(timeout=WITHIN_S)
    assert (answer["status"], answer["engine"], answer["finish"]) == ("ok", "vllm", "stop")
    assert answer["text"]


def test_what_a_killed_worker_held_runs_when_it_is_back(celery_setup: CeleryTestSetup, engine: Any) -> None:
    worker = celery_setup.worker_cluster[0]
    results = [extract(celery_setup) for _ in range(8)]
    deadline = time.monotonic() + WITHIN_S
    while in_flight(engine) < len(results):
        assert time.monotonic() < deadline, "the calls never were at the engine"
        time.sleep(0.1)

    worker.kill()
    worker.restart()

    assert [result.get(timeout=WITHIN_S)["status"] for result in results] == ["ok"] * len(results)


def in_flight(engine: Any) -> int:
    """Calls at the simulator, by its own count."""
    ask = "import json, urllib.request as r; print(json.load(r.urlopen('http://127.0.0.1:8000/_sim/stats'))['in_flight'])"
    return int(engine.exec_run(["python", "-c", ask]).output)
