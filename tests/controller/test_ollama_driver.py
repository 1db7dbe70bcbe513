"""The driver of Ollama, against the simulator."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import AsyncMock

import pytest

from aegis_workers.completion import CompletionRequest, Message, Sampling
from aegis_workers.controller.driver import NotNow, Presence
from aegis_workers.controller.drivers.ollama import OllamaDriver
from aegis_workers.engines import clients
from aegis_workers.engines.base import EngineClient, Probe, Readiness
from aegis_workers.errors import DriverFailed
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.simulator.server import Options, Running, start

pytestmark = pytest.mark.anyio

WAIT_S = 20.0
ASKS = CompletionRequest(messages=(Message(role="user", content="Hi"),), sampling=Sampling(max_tokens=4))


@dataclass(kw_only=True)
class Place:
    """A simulated Ollama, its driver, and a client of somebody else's."""

    running: Running
    client: EngineClient
    driver: OllamaDriver

    async def is_at(self, presence: Presence) -> Any:
        async with asyncio.timeout(WAIT_S):
            while (seen := await self.driver.observe()).presence is not presence:  # noqa: ASYNC110 - Ollama has no event for it
                await asyncio.sleep(0.01)
        return seen


@pytest.fixture
async def placed(anyio_backend: str) -> AsyncIterator[Callable[..., Awaitable[Place]]]:
    del anyio_backend
    places: list[Place] = []

    async def place(*, model: str = "sim", **options: Any) -> Place:
        running = await start(Options(engine="ollama", **options))
        settings = Settings(
            _env_file=None, ollama_url=(running.url,), ollama_model=model, ollama_driver="ollama", ollama_keep_alive="1s"
        )
        (client,) = clients.build(settings)[Engine.OLLAMA]
        places.append(Place(running=running, client=client, driver=OllamaDriver([client])))
        return places[-1]

    yield place
    for each in places:
        await each.driver.aclose()
        await each.client.aclose()
        await each.running.stop()


Placed = Callable[..., Awaitable[Place]]


async def test_a_model_is_loaded_seen_and_unloaded(placed: Placed) -> None:
    place = await placed(start_seconds=0.2)
    seen = await place.driver.observe()
    assert (seen.presence, seen.reason, seen.ended) == (Presence.ABSENT, "its model is not in memory", False)
    await place.driver.start()
    await place.driver.start()
    seen = await place.driver.observe()
    assert (seen.presence, seen.reason) == (Presence.COMING, "loading its model")
    await place.is_at(Presence.PRESENT)
    await place.driver.release()
    assert not (await place.is_at(Presence.ABSENT)).ended


async def test_a_led_model_stays_until_it_is_told_to_go_also_after_a_call(placed: Placed) -> None:
    place = await placed(keep_alive_s=0.01)
    await place.driver.start()
    await place.is_at(Presence.PRESENT)
    await place.client.complete(ASKS)
    await asyncio.sleep(1.1)  # a bound, not a wait: Ollama's own default has passed, and that of the settings
    assert (await place.driver.observe()).presence is Presence.PRESENT


async def test_a_call_of_somebody_else_keeps_the_model_until_it_is_told_again(placed: Placed) -> None:
    place = await placed(call_seconds=0.3)
    await place.driver.start()
    await place.is_at(Presence.PRESENT)
    call = asyncio.create_task(place.client.complete(ASKS))  # its own keep_alive undoes what is said meanwhile
    await asyncio.sleep(0)
    await place.driver.release()
    assert (await place.driver.observe()).presence is Presence.GOING
    await call
    await place.client.warm_up()
    seen = await place.driver.observe()
    assert (seen.presence, seen.reason) == (Presence.GOING, "told to unload, and its model is still in memory")
    await place.driver.release()
    await place.is_at(Presence.ABSENT)


async def test_an_order_that_is_taken_back_at_the_last_moment_reaches_no_model(placed: Placed) -> None:
    place = await placed()

    async def refuse() -> None:
        raise NotNow("another leads")

    with pytest.raises(NotNow):
        await place.driver.start(refuse)
    assert (await place.driver.observe()).reason == "its model is not in memory"
    await place.driver.start()
    await place.is_at(Presence.PRESENT)
    with pytest.raises(NotNow):
        await place.driver.release(refuse)
    assert (await place.driver.observe()).presence is Presence.PRESENT


async def test_an_heir_that_knows_nothing_releases_what_another_loaded(placed: Placed) -> None:
    place = await placed()
    await place.client.warm_up()
    heir = OllamaDriver([place.client])
    assert (await heir.observe()).presence is Presence.PRESENT
    await heir.release()
    place.driver = heir
    await place.is_at(Presence.ABSENT)
    await heir.release()  # once more does no harm, and loads nothing
    await place.is_at(Presence.ABSENT)


async def test_a_load_that_fails_says_why(placed: Placed) -> None:
    place = await placed(model="not-pulled")
    await place.driver.start()

    async with asyncio.timeout(WAIT_S):
        while not (seen := await place.driver.observe()).ended:  # noqa: ASYNC110 - Ollama has no event for it
            await asyncio.sleep(0.01)
    assert seen.presence is Presence.ABSENT
    assert seen.reason.startswith("its model did not load: Ollama at http")
    assert "run `ollama pull not-pulled` there" in seen.reason
    await place.driver.release()
    assert not (await place.driver.observe()).ended


async def test_a_release_breaks_off_a_load(placed: Placed) -> None:
    place = await placed(start_seconds=0.3)
    await place.driver.start()
    await place.is_at(Presence.COMING)
    await place.driver.release()
    async with asyncio.timeout(WAIT_S):
        while (await place.driver.observe()).presence is not Presence.ABSENT:
            await place.driver.release()
    await place.is_at(Presence.ABSENT)


@pytest.mark.parametrize(("released", "presence"), [(False, Presence.PRESENT), (True, Presence.GOING)])
async def test_a_server_that_misses_a_probe_is_not_taken_for_gone(
    placed: Placed,
    monkeypatch: pytest.MonkeyPatch,
    released: bool,  # noqa: FBT001 - a row of the table
    presence: Presence,
) -> None:
    place = await placed()
    await place.driver.start()
    await place.is_at(Presence.PRESENT)
    if released:
        await place.driver.release()
    silent = Probe(readiness=Readiness.UNAVAILABLE, reason="no answer within 5 s")
    with monkeypatch.context() as patch:
        patch.setattr(place.client, "probe", AsyncMock(return_value=silent))
        assert (await place.driver.observe()).presence is presence
        assert (await place.driver.observe()).presence is presence
        patch.setattr("aegis_workers.controller.drivers.ollama._MISSED_S", 0.0)
        seen = await place.driver.observe()
        assert (seen.presence, seen.reason, seen.ended) == (Presence.ABSENT, "no answer within 5 s", False)
    await place.is_at(Presence.ABSENT if released else Presence.PRESENT)


async def test_a_server_that_is_gone_holds_nothing_and_takes_no_orders(placed: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis_workers.controller.drivers.ollama._MISSED_S", 0.1)
    place = await placed()
    await place.driver.start()
    await place.is_at(Presence.PRESENT)
    await place.running.stop()
    seen = await place.is_at(Presence.ABSENT)
    assert seen.reason
    with pytest.raises(DriverFailed, match="did not take the order to unload: Ollama at http"):
        await place.driver.release()
