"""The process driver with the real vLLM: started, seen to come and to be there, left while calls end, and ended."""

import asyncio
import os
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import serving
from serving import MODEL, START_TIMEOUT_S, WAIT_S, Server

from aegis_workers.completion import CompletionRequest, Finish, Message, Sampling
from aegis_workers.controller.driver import Observation, Presence
from aegis_workers.controller.drivers import keeper
from aegis_workers.controller.drivers.process import ProcessDriver
from aegis_workers.engines import clients
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

Started = tuple[ProcessDriver, Server]

ASKED = CompletionRequest(messages=(Message(role="user", content="Go on."),), sampling=Sampling(max_tokens=400, temperature=1.0))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def driver(tmp_path: Path, anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Started]:
    del anyio_backend
    server = Server(folder=tmp_path)
    for name in [name for name in os.environ if name.startswith(("PYTHON", "VLLM_"))]:
        monkeypatch.delenv(name)
    for name, value in serving.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    replicas = clients.build(Settings(_env_file=None, vllm_url=(server.url,), vllm_model=MODEL))[Engine.VLLM]
    apart = ["taskset", "--cpu-list", ",".join(map(str, serving.SPINNING)), *server.command()]
    driver = ProcessDriver(Engine.VLLM, replicas, command=shlex.join(apart), data_dir=tmp_path, secrets={})
    yield driver, server
    driver.grace_s = 0.0
    while (await driver.observe()).presence is not Presence.ABSENT:
        await driver.release()
        await asyncio.sleep(0.05)
    for replica in replicas:
        await replica.aclose()


async def observed(driver: ProcessDriver, presence: Presence, within_s: float) -> Observation:
    async with asyncio.timeout(within_s):
        while (seen := await driver.observe()).presence is not presence:
            assert not seen.ended, seen
            await asyncio.sleep(0.1)
    return seen


async def test_the_real_engine_is_started_drained_and_ended(driver: Started) -> None:
    vllm, server = driver
    await vllm.start()
    assert (await vllm.observe()).presence is Presence.COMING
    await observed(vllm, Presence.PRESENT, START_TIMEOUT_S)
    sight = vllm.files.look()
    assert len(sight.alive) > 2  # its keeper, the server, and the engine's own processes

    (client,) = vllm._replicas
    await client.prove()
    call = asyncio.create_task(client.complete(ASKED))
    await server.has_at_least(1)
    assert (await vllm.observe()).presence is Presence.PRESENT
    answer = await call
    assert answer.finish in set(Finish)
    await server.has_in_flight(0)

    heir = ProcessDriver(Engine.VLLM, vllm._replicas, command="false", data_dir=server.folder, secrets={})
    await heir.start()  # it runs: nothing is started
    assert (await heir.observe()).presence is Presence.PRESENT
    await heir.release()
    seen = await observed(heir, Presence.ABSENT, WAIT_S)
    assert seen == Observation(presence=Presence.ABSENT, reason="not running")
    assert [pid for pid in sight.alive if list(keeper.read(pid))] == []
    assert not server.is_healthy()


async def test_a_real_engine_that_cannot_start_says_why(driver: Started) -> None:
    vllm, _ = driver
    vllm._command.append("--no-such-option")
    await vllm.start()
    async with asyncio.timeout(START_TIMEOUT_S):
        while not (seen := await vllm.observe()).ended:  # noqa: ASYNC110 - a process has no event for it
            await asyncio.sleep(0.1)
    assert "no-such-option" in seen.last_words
