"""The driver of a container: with a double of the SDK for what Docker says, and with a real daemon where one answers."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import docker
import docker.errors
import pytest

from aegis_workers.controller import senses
from aegis_workers.controller.driver import NotNow, Observation, Presence
from aegis_workers.controller.drivers.docker import DockerDriver
from aegis_workers.engines import clients
from aegis_workers.engines.base import EngineClient, Probe, Readiness
from aegis_workers.errors import DriverFailed
from aegis_workers.local import process
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings

pytestmark = pytest.mark.anyio

WAIT_S = 50.0
ROOT = Path(__file__).parents[2]


class Replica:
    """A client that finds what the test says."""

    engine, url = Engine.VLLM, "http://127.0.0.1:1"

    def __init__(self) -> None:
        self.found = Probe(readiness=Readiness.UNAVAILABLE, reason="connection refused")

    async def probe(self) -> Probe:
        return self.found


class Container:
    """What the SDK gives for a container, as far as the driver asks it."""

    def __init__(self, **state: Any) -> None:
        self.state = {"Status": "created", "StartedAt": "0001-01-01T00:00:00Z", "ExitCode": 0, "Error": "", **state}
        self.stops = 0
        self.refuses: Exception | None = None

    @property
    def attrs(self) -> dict[str, Any]:
        return {"State": self.state}

    def start(self) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.state |= {"Status": "running", "StartedAt": "2026-01-01T00:00:00Z"}

    def stop(self, timeout: int) -> None:
        assert timeout > 0
        if self.refuses is not None:
            raise self.refuses
        self.stops += 1
        self.state |= {"Status": "exited", "ExitCode": 143}

    def logs(self, tail: int) -> bytes:
        assert tail > 0
        return b"CUDA error\nno memory\n"


class Sdk:
    """A daemon that has one container, or none."""

    def __init__(self, container: Container | None) -> None:
        self.container = container
        self.containers = SimpleNamespace(get=self._get)

    def _get(self, name: str) -> Container:
        if self.container is None:
            raise docker.errors.NotFound(f"no {name}")
        return self.container

    def close(self) -> None:
        """As the SDK has it."""


def driver_of(container: Container | None, monkeypatch: pytest.MonkeyPatch) -> tuple[DockerDriver, Replica]:
    monkeypatch.setattr(docker, "from_env", lambda **_: Sdk(container))
    replica: Any = Replica()
    replicas: list[EngineClient] = [replica]
    return DockerDriver(Engine.VLLM, replicas, container="engine"), replica


async def observed(driver: DockerDriver, presence: Presence) -> Observation:
    async with asyncio.timeout(WAIT_S):
        while (seen := await driver.observe()).presence is not presence:  # noqa: ASYNC110 - Docker has no event for it
            await asyncio.sleep(0.01)
    return seen


async def test_a_container_is_started_seen_and_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    container = Container()
    driver, replica = driver_of(container, monkeypatch)
    assert await driver.observe() == Observation(presence=Presence.ABSENT, reason="the container engine does not run")
    await driver.start()
    coming = Observation(presence=Presence.COMING, reason="the container engine is running; connection refused")
    assert await driver.observe() == coming
    replica.found = Probe(readiness=Readiness.READY)
    assert (await driver.observe()).presence is Presence.PRESENT
    await driver.release()
    await driver.release()
    assert not (await observed(driver, Presence.ABSENT)).ended
    await driver.release()
    assert container.stops == 1
    await driver.aclose()


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"ExitCode": 3}, "exit 3"),
        ({"ExitCode": 137, "OOMKilled": True}, "it ran out of memory"),
        ({"Error": "no GPU"}, "no GPU"),
    ],
)
async def test_a_container_that_ended_by_itself_says_why(
    state: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, _ = driver_of(Container(Status="exited", StartedAt="2026-01-01T00:00:00Z", **state), monkeypatch)
    seen = await driver.observe()
    assert (seen.presence, seen.ended, seen.reason) == (Presence.ABSENT, True, f"the container engine ended ({why})")
    assert seen.last_words == "CUDA error\nno memory"


async def test_what_docker_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    container = Container()
    driver, _ = driver_of(container, monkeypatch)
    container.refuses = docker.errors.APIError("500", explanation="port is already allocated")
    with pytest.raises(DriverFailed, match="Docker refused it for the container engine: port is already allocated"):
        await driver.start()
    container.state["Status"] = "running"
    await driver.release()
    with pytest.raises(DriverFailed, match="port is already"):
        await refused(driver)
    await driver.aclose()


async def test_an_engine_of_which_docker_says_nothing_is_as_it_was_unless_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    container = Container(Status="running", StartedAt="2026-01-01T00:00:00Z")
    driver, replica = driver_of(container, monkeypatch)
    replica.found = Probe(readiness=Readiness.READY)
    assert (await driver.observe()).presence is Presence.PRESENT
    monkeypatch.setattr(driver._sdk, "containers", SimpleNamespace(get=unreachable))
    assert (await driver.observe()).presence is Presence.PRESENT
    replica.found = Probe(readiness=Readiness.UNAVAILABLE, reason="connection refused")
    seen = await driver.observe()
    assert seen.presence is Presence.PRESENT
    assert seen.reason == "Docker does not answer (nobody is there): start it, or correct DOCKER_HOST"
    with pytest.raises(DriverFailed, match="Docker does not answer"):
        await driver.release()


async def test_an_engine_that_nobody_has_seen_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, _ = driver_of(None, monkeypatch)
    monkeypatch.setattr(docker, "from_env", unreachable)
    assert (await driver.observe()).presence is Presence.COMING


def unreachable(*_: Any, **__: Any) -> Any:
    raise docker.errors.DockerException("nobody is there")


async def test_a_docker_that_hangs_is_asked_once_and_then_said_not_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, replica = driver_of(Container(Status="running", StartedAt="2026-01-01T00:00:00Z"), monkeypatch)
    goes_on, asked = threading.Event(), []

    def hang(name: str) -> Any:
        asked.append(name)
        goes_on.wait(WAIT_S)
        raise docker.errors.NotFound("gone")

    await driver.observe()
    monkeypatch.setattr(driver._sdk, "containers", SimpleNamespace(get=hang))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(driver.observe(), 0.05)
    replica.found = Probe(readiness=Readiness.READY)
    assert (await driver.observe()).presence is Presence.PRESENT
    with pytest.raises(DriverFailed, match="Docker does not answer"):
        await driver.release()
    goes_on.set()
    assert asked == ["engine"]


async def test_an_order_that_is_taken_back_at_the_last_moment_reaches_no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    container = Container()
    driver, _ = driver_of(container, monkeypatch)

    async def refuse() -> None:
        raise NotNow("another leads")

    with pytest.raises(NotNow):
        await driver.start(refuse)
    assert container.state["Status"] == "created"
    await driver.start()
    with pytest.raises(NotNow):
        await driver.release(refuse)
    assert (await driver.observe()).presence is Presence.COMING
    assert container.stops == 0


async def test_a_request_to_docker_has_less_time_than_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    driver, _ = driver_of(Container(), monkeypatch)

    def from_env(**chosen: Any) -> Sdk:
        given.update(chosen)
        return Sdk(Container())

    monkeypatch.setattr(docker, "from_env", from_env)
    await driver.observe()
    assert 2 * given["timeout"] < senses._WITHIN_S  # it takes two to see a container that has ended


async def test_closing_waits_for_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    container = Container(Status="running", StartedAt="2026-01-01T00:00:00Z")
    driver, _ = driver_of(container, monkeypatch)
    goes_on, stopping = threading.Event(), threading.Event()

    def stop(timeout: int) -> None:
        stopping.set()
        goes_on.wait(timeout + WAIT_S)

    monkeypatch.setattr(container, "stop", stop)
    await driver.release()
    await asyncio.to_thread(stopping.wait, WAIT_S)
    await asyncio.wait_for(driver.aclose(), 5)
    goes_on.set()


async def refused(driver: DockerDriver) -> None:
    """An order that failed is said with the next one."""
    async with asyncio.timeout(WAIT_S):
        while True:
            await driver.release()
            await asyncio.sleep(0.01)


async def test_a_container_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, _ = driver_of(None, monkeypatch)
    assert (await driver.observe()).reason == "there is no container engine: create it with docker create --name"
    with pytest.raises(DriverFailed, match="there is no container engine"):
        await driver.start()
    await driver.release()  # nothing runs
    await driver.aclose()


async def test_a_host_without_the_extra_or_without_docker_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    replicas: list[EngineClient] = []
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    driver = DockerDriver(Engine.VLLM, replicas, container="engine")
    with pytest.raises(DriverFailed, match="Docker does not answer"):
        await driver.start()
    monkeypatch.setitem(sys.modules, "docker", None)
    assert (await driver.observe()).reason == "the Docker SDK is not installed: pip install 'aegis-workers[docker]'"
    collect_sockets()


def collect_sockets() -> None:
    """The SDK leaves the socket open with which it found nobody."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def simulator() -> Iterator[tuple[str, str]]:
    """A container that runs a simulated vLLM on the host's network, created and not started: its name, and its base URL."""
    image = os.environ.get("AEGIS_TEST_DOCKER_IMAGE", "python:3.11-slim-bookworm")
    why_not = ""
    try:
        sdk = docker.from_env(timeout=120)  # a storage driver that copies takes its time over a container
        sdk.images.get(image)
    except (docker.errors.DockerException, OSError) as error:
        why_not = str(error)
    if why_not:
        collect_sockets()
        pytest.skip(f"NO DOCKER WITH THE IMAGE {image} HERE ({why_not}): THE DOCKER DRIVER WAS TESTED WITH A DOUBLE ONLY")
    port = process.free_port()
    # Of the whole package the simulator needs aiohttp and what it needs: the checkout's own, at its own place.
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    container = sdk.containers.create(
        image,
        ["python3", "-m", "aegis_workers.cli", "simulate", "vllm", "--port", str(port), "--start-seconds", "0.5"],
        name=f"aegis-test-{uuid4().hex[:8]}",
        network_mode="host",
        environment={"PYTHONPATH": f"{ROOT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"},
        volumes={str(ROOT): {"bind": str(ROOT), "mode": "ro"}},
    )
    try:
        yield container.name, f"http://127.0.0.1:{port}"
    finally:
        container.remove(force=True)
        sdk.close()


@pytest.fixture
async def real(simulator: tuple[str, str], anyio_backend: str) -> AsyncIterator[DockerDriver]:
    del anyio_backend
    name, url = simulator
    replicas = clients.build(Settings(_env_file=None, vllm_url=(url,), vllm_model="sim"))[Engine.VLLM]
    driver = DockerDriver(Engine.VLLM, replicas, container=name)
    yield driver
    await driver.aclose()
    for replica in replicas:
        await replica.aclose()


@pytest.mark.timeout(180)
async def test_a_real_container_is_started_answers_and_is_stopped(real: DockerDriver) -> None:
    assert (await real.observe()).presence is Presence.ABSENT
    await real.start()
    await real.start()
    assert (await real.observe()).presence in {Presence.COMING, Presence.PRESENT}
    await observed(real, Presence.PRESENT)
    await real.release()
    assert (await real.observe()).presence in {Presence.GOING, Presence.ABSENT}
    seen = await observed(real, Presence.ABSENT)
    assert not seen.ended
    await real.start()
    await observed(real, Presence.PRESENT)
    killed = ["docker", "kill", real._container]
    await asyncio.to_thread(subprocess.run, killed, check=True, capture_output=True)
    seen = await observed(real, Presence.ABSENT)
    assert (seen.ended, seen.reason) == (True, f"the container {real._container} ended (exit 137)")
    assert "http://127.0.0.1" in seen.last_words
