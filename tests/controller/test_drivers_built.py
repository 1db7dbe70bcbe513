"""Which driver each engine gets, and what one can do whose engine somebody else runs."""

from pathlib import Path
from typing import Any

import pytest

from aegis_workers.controller import drivers
from aegis_workers.controller.driver import Observation, Presence
from aegis_workers.controller.drivers.docker import DockerDriver
from aegis_workers.controller.drivers.external import ExternalDriver
from aegis_workers.controller.drivers.ollama import OllamaDriver
from aegis_workers.controller.drivers.process import ProcessDriver
from aegis_workers.engines import clients
from aegis_workers.engines.base import Probe, Readiness
from aegis_workers.errors import DriverFailed
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings

pytestmark = pytest.mark.anyio

BOTH = {"vllm_model": "m", "ollama_model": "m"}


class Replica:
    """A client that finds what the test says."""

    engine, url = Engine.VLLM, "http://127.0.0.1:1"

    def __init__(self, readiness: Readiness) -> None:
        self._found = Probe(readiness=readiness, reason=f"it is {readiness}")

    async def probe(self) -> Probe:
        return self._found


@pytest.mark.parametrize(
    ("engine", "chosen", "kind", "can_start"),
    [
        (Engine.VLLM, {}, ExternalDriver, False),
        (Engine.OLLAMA, {}, ExternalDriver, False),
        (Engine.VLLM, {"vllm_driver": "process", "vllm_command": "true"}, ProcessDriver, True),
        (Engine.VLLM, {"vllm_driver": "process", "vllm_command": "true", "vllm_model": None}, ProcessDriver, True),
        (Engine.VLLM, {"vllm_driver": "docker", "vllm_container": "c"}, DockerDriver, True),
        (Engine.OLLAMA, {"ollama_driver": "ollama"}, OllamaDriver, True),
        (Engine.OLLAMA, {"ollama_driver": "ollama", "ollama_model": None}, ExternalDriver, False),
    ],
)
def test_each_engine_has_the_driver_of_its_setting(
    engine: Engine,
    chosen: dict[str, Any],
    kind: type,
    can_start: bool,  # noqa: FBT001 - a parameter of the table
    tmp_path: Path,
) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, **BOTH | chosen)
    built = drivers.build(settings, clients.build(settings))
    assert set(built) == set(Engine)
    assert isinstance(built[engine], kind)
    assert (built[engine].engine, built[engine].can_start) == (engine, can_start)
    assert list(tmp_path.iterdir()) == []  # nothing is made before something is started


async def test_the_key_goes_to_the_engine_in_its_environment(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"vllm_driver": "process", "vllm_command": "true", "vllm_api_key": "planted"}
    settings = Settings(_env_file=None, data_dir=tmp_path, **chosen)
    driver = drivers.build(settings, clients.build(settings))[Engine.VLLM]
    assert isinstance(driver, ProcessDriver)
    assert driver._environment()["VLLM_API_KEY"] == "planted"


@pytest.mark.parametrize(
    ("found", "presence"),
    [
        ([Readiness.UNAVAILABLE, Readiness.READY], Presence.PRESENT),
        ([Readiness.UNAVAILABLE, Readiness.STARTING], Presence.COMING),
        ([Readiness.UNAVAILABLE], Presence.ABSENT),
    ],
)
async def test_an_engine_of_somebody_else_is_what_its_best_replica_is(found: list[Readiness], presence: Presence) -> None:
    replicas: list[Any] = [Replica(readiness) for readiness in found]
    driver = ExternalDriver(Engine.VLLM, replicas)
    assert (await driver.observe()).presence is presence
    assert await ExternalDriver(Engine.VLLM, []).observe() == Observation(presence=Presence.ABSENT, reason="not configured")


async def test_an_engine_of_somebody_else_is_neither_started_nor_stopped() -> None:
    driver = ExternalDriver(Engine.VLLM, [])
    with pytest.raises(DriverFailed, match=r"not started from here.*AEGIS_VLLM_DRIVER=external"):
        await driver.start()
    with pytest.raises(DriverFailed, match="not stopped from here"):
        await driver.release()
