"""The loop of the controller on a real Redis: killed at any step, deposed, and hurried by the mode key."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis.asyncio
from led_engines import TOTAL_GB, Host
from redis.exceptions import ConnectionError as RedisConnectionError
from settling import ended
from structlog.testing import capture_logs

from aegis_workers.controller import engines, hands, senses
from aegis_workers.controller.demand import Demand
from aegis_workers.controller.driver import Presence
from aegis_workers.controller.engines import Engines
from aegis_workers.controller.hands import Hands
from aegis_workers.dispatch.fleet import not_up
from aegis_workers.engines.base import Probe
from aegis_workers.jobs.steps import Deposed
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.state import engine_control, engine_status, keys, slots, switches
from aegis_workers.state.engine_control import Phase
from aegis_workers.state.jobs import Ruling
from aegis_workers.state.leader import TTL_S
from aegis_workers.state.switches import Source

pytestmark = pytest.mark.anyio

VLLM_READY = (Phase.READY, Phase.STOPPED)
OLLAMA_READY = (Phase.STOPPED, Phase.READY)


class Killed(BaseException):
    """The controller's death at a chosen point."""


@pytest.fixture
def host(async_client: redis.asyncio.Redis, settings: Settings) -> Host:
    return Host(async_client, settings)


async def ollama_serves(host: Host) -> Engines:
    leader = await host.lead()
    await host.settle(leader, OLLAMA_READY)
    return leader


async def go_on(leader: Engines, *, passes: int = 5) -> None:
    for _ in range(passes):
        await leader.step()


@asynccontextmanager
async def running(leader: Engines) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(leader.run())
    try:
        await leader._push.connected.wait()
        yield task
    finally:
        await ended(task)


async def test_a_mode_write_is_followed_and_each_phase_and_its_time_is_logged(host: Host) -> None:
    leader = await ollama_serves(host)
    await leader.step()
    with capture_logs() as logs:
        await host.client.set(keys.MODE, "vllm")
        await host.settle(leader, VLLM_READY)
        await leader.step()
    said = [line["event"] for line in logs if line["event"].startswith(("engine.", "switch."))]
    assert said == [
        "engine.fenced",
        "engine.drained",
        "engine.released",
        "engine.started",
        "engine.warmed",
        "engine.ready",
        "switch.finished",
    ]
    finished = next(line for line in logs if line["event"] == "switch.finished")
    assert {"seconds", "ollama_draining_s", "ollama_stopping_s", "vllm_starting_s", "vllm_warming_s"} <= finished.keys()
    assert host.clients[Engine.VLLM].proofs == 1
    assert [host.drivers[engine].starts for engine in Engine] == [1, 1]


async def test_the_history_tells_how_long_the_phases_of_a_switch_took(host: Host, client: redis.Redis) -> None:
    leader = await ollama_serves(host)
    await leader.step()
    await host.client.set(keys.MODE, "vllm")
    await host.settle(leader, VLLM_READY)
    await leader.step()
    switch = switches.read(client)[0]
    assert (switch.mode, switch.source) == (Mode.VLLM, Source.RAW)
    assert {(lasted.engine, lasted.phase) for lasted in switch.phases} >= {
        (Engine.OLLAMA, Phase.DRAINING),
        (Engine.VLLM, Phase.STARTING),
    }


async def test_a_call_in_flight_keeps_its_engine_until_it_ends(host: Host) -> None:
    leader = await ollama_serves(host)
    lease = slots._leases([host.clients[Engine.OLLAMA].url])[0]
    await host.client.zadd(lease, {"a call": 10**15})
    await host.client.set(keys.MODE, "vllm")
    await host.settle(leader, (Phase.STOPPED, Phase.DRAINING))
    for _ in range(5):
        await leader.step()
    assert host.drivers[Engine.OLLAMA].releases == 0
    await host.client.delete(lease)
    await host.settle(leader, VLLM_READY)


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int, *, before: bool) -> Callable[[], int]:
    """Death before or after one of the acts, which are writes and effects; returns how many there were."""
    acts = 0

    def deadly(act: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def tried(*args: Any, **kwargs: Any) -> Any:
            nonlocal acts
            acts += 1
            if before and acts == number:
                raise Killed
            found = await act(*args, **kwargs)
            if not before and acts == number:
                raise Killed
            return found

        return tried

    monkeypatch.setattr(engine_control, "write", deadly(engine_control.write))
    monkeypatch.setattr(Hands, "do", deadly(Hands.do))
    return lambda: acts


@pytest.mark.parametrize("before", [True, False])
async def test_a_controller_killed_at_any_step_of_a_switch_is_followed_by_one_that_goes_on(
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    before: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    number, deaths = 1, 0
    while number == deaths + 1:
        await host.client.set(keys.MODE, "ollama")
        await host.settle(await host.lead(), OLLAMA_READY)
        for driver in host.drivers.values():
            driver.starts = 0
        await host.client.set(keys.MODE, "vllm")
        with monkeypatch.context() as patch:
            count = killed_at(patch, number, before=before)
            try:
                await host.settle(await host.lead(), VLLM_READY)
            except Killed:
                deaths += 1
        await host.settle(await host.lead(), VLLM_READY)
        assert host.drivers[Engine.VLLM].starts <= 2
        assert host.drivers[Engine.OLLAMA].presence is Presence.ABSENT
        number += 1
    assert deaths == count() > 8


async def test_a_leader_that_was_deposed_changes_nothing(host: Host) -> None:
    old = await ollama_serves(host)
    await host.client.set(keys.MODE, "vllm")
    await host.lead()
    before = await host.client.hgetall(keys.engine(Engine.OLLAMA))
    with pytest.raises(Deposed):
        await old.step()
    assert await host.client.hgetall(keys.engine(Engine.OLLAMA)) == before
    await asyncio.wait_for(old.run(), 10)  # it ends by itself
    assert [host.drivers[engine].releases for engine in Engine] == [0, 0]


async def test_a_leader_that_froze_between_the_record_and_the_effect_asks_again_and_does_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await ollama_serves(host)
    await host.client.set(keys.MODE, "vllm")
    await host.settle(leader, (Phase.STOPPED, Phase.DRAINING))
    write, released = engine_control.write, host.drivers[Engine.OLLAMA].releases

    async def freezes(*args: Any, **kwargs: Any) -> Ruling:
        ruling = await write(*args, **kwargs)
        if args[3].phase is Phase.STOPPING:
            await host.lead()
            monkeypatch.setattr(engines, "FRESH_S", -1.0)
        return ruling

    monkeypatch.setattr(engine_control, "write", freezes)
    with pytest.raises(Deposed):
        await leader.step()
    assert host.drivers[Engine.OLLAMA].releases == released


@pytest.mark.parametrize(
    ("phases", "engine"), [((Phase.STOPPED, Phase.DRAINING), Engine.OLLAMA), ((Phase.STOPPED, Phase.STOPPED), Engine.VLLM)]
)
async def test_a_leader_that_froze_while_a_driver_looked_around_asks_again_and_does_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch, phases: tuple[Phase, Phase], engine: Engine
) -> None:
    leader = await ollama_serves(host)
    await host.client.set(keys.MODE, "vllm")
    await host.settle(leader, phases)
    driver = host.drivers[engine]
    acts = driver.starts, driver.releases

    async def freeze() -> None:
        await host.lead()
        monkeypatch.setattr(engines, "FRESH_S", -1.0)

    monkeypatch.setattr(driver, "before_acting", freeze)
    with pytest.raises(Deposed):
        await go_on(leader)
    assert (driver.starts, driver.releases) == acts


async def test_an_order_to_a_driver_ends_before_another_could_lead() -> None:
    assert hands._WITHIN_S < TTL_S - engines.FRESH_S


async def test_a_leader_that_was_deposed_while_it_probed_says_of_no_replica_that_it_is_ready(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await ollama_serves(host)
    await host.client.set(keys.MODE, "vllm")
    await host.settle(leader, (Phase.WARMING, Phase.STOPPED))
    client = host.clients[Engine.VLLM]
    probe = client.probe

    async def late() -> Probe:
        await host.lead()
        return await probe()

    monkeypatch.setattr(client, "probe", late)
    before = await host.client.hgetall(keys.engine(Engine.VLLM))
    with pytest.raises(Deposed):
        await go_on(leader)
    assert set(await host.client.hgetall(keys.engine(Engine.VLLM))) == set(before)


async def test_a_record_that_another_wrote_meanwhile_is_not_overwritten(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    leader = await ollama_serves(host)
    await host.client.set(keys.MODE, "vllm")
    await host.settle(leader, (Phase.STOPPED, Phase.DRAINING))
    found = await host.control(Engine.OLLAMA)
    theirs = engine_control.encode(replace(found, reason="another's"))
    take = leader._take

    async def after_them(*args: Any) -> None:
        await host.client.hset(keys.engine(Engine.OLLAMA), keys.CONTROL_FIELD, theirs)
        await take(*args)

    monkeypatch.setattr(leader, "_take", after_them)
    await leader.step()
    assert (await host.control(Engine.OLLAMA)).reason == "another's"
    assert host.drivers[Engine.OLLAMA].releases == 0


async def test_a_mode_written_three_times_within_a_second_ends_as_it_was_written_last(host: Host) -> None:
    leader = await ollama_serves(host)
    async with running(leader):
        for word in ("vllm", "ollama", "vllm"):
            await host.client.set(keys.MODE, word)
            await asyncio.sleep(0.1)
        await host.eventually(VLLM_READY)


async def test_an_unknown_mode_moves_nothing(host: Host) -> None:
    await host.client.set(keys.MODE, "vllm")
    leader = await host.lead()
    await host.settle(leader, VLLM_READY)
    releases = [driver.releases for driver in host.drivers.values()]
    await host.client.set(keys.MODE, "olama")
    for _ in range(5):
        await leader.step()
    assert await host.phases() == VLLM_READY
    assert [driver.releases for driver in host.drivers.values()] == releases


async def test_a_start_that_is_refused_twice_is_rolled_back_and_tried_again_when_the_same_mode_is_written(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_workers.controller.case._FIRST_RETRY_S", 0.0)
    leader = await ollama_serves(host)
    host.drivers[Engine.VLLM].refusal = "there is no such command"
    async with running(leader):
        await host.client.set(keys.MODE, "vllm")
        await host.eventually((Phase.FAILED, Phase.READY))
        assert (await host.control(Engine.VLLM)).reason.startswith("there is no such command; Ollama runs in its place")
        assert host.drivers[Engine.VLLM].starts == 2
        host.drivers[Engine.VLLM].refusal = ""
        await host.client.set(keys.MODE, "vllm")
        await host.eventually(VLLM_READY)


async def test_what_an_engine_wrote_is_shown_to_operators_and_not_logged(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis_workers.controller.case._FIRST_RETRY_S", 0.0)
    leader = await ollama_serves(host)
    host.drivers[Engine.VLLM].fails = True
    await host.client.set(keys.MODE, "vllm")
    reasons = set()
    with capture_logs() as logs:
        for phases in [(Phase.FAILED, Phase.STOPPED), (Phase.STARTING, Phase.STOPPED), (Phase.FAILED, Phase.READY)]:
            await host.settle(leader, phases)
            statuses = (await engine_status.cache(host.client).read()).value
            reasons |= {status.fence_reason for status in statuses.values()} | {not_up(statuses[Engine.VLLM], now_ms=0)}
    assert (await host.control(Engine.VLLM)).said == "a text of a user"
    said = [line["reason"] for line in logs if line["event"].startswith("engine.")]
    assert "tried again after: ended while it started" in said
    assert "in the place of vLLM, which did not start" in said
    assert "ended while it started; Ollama runs in its place until the mode is set again" in reasons
    assert "a text of a user" not in str(logs) + str(reasons)


async def test_a_proof_that_fails_is_tried_again_and_its_words_are_shown(host: Host) -> None:
    leader = await ollama_serves(host)
    host.clients[Engine.VLLM].unproven = TimeoutError()
    await host.client.set(keys.MODE, "vllm")
    await host.settle(leader, (Phase.WARMING, Phase.STOPPED))
    for _ in range(20):
        await leader.step()
        await asyncio.sleep(0)
    assert "completes no token yet" in (await host.control(Engine.VLLM)).reason
    assert host.clients[Engine.VLLM].proofs > 1
    host.clients[Engine.VLLM].unproven = None
    await host.settle(leader, VLLM_READY)


async def test_what_is_measured_is_shared_with_the_room_that_it_makes(host: Host) -> None:
    await ollama_serves(host)
    shared = str(await host.client.get(keys.MEMORY))
    assert f'"total_gb": {TOTAL_GB}' in shared
    assert '"room_for_both": false' in shared


async def test_work_is_there_while_it_is_queued_held_or_to_be_fed(async_client: redis.asyncio.Redis) -> None:
    demand = Demand(async_client)

    async def is_there() -> bool:
        demand._looked_at = float("-inf")
        return (await demand.read()).is_there

    assert not await is_there()
    await async_client.rpush("extraction", "a message")
    assert await is_there()
    await async_client.delete("extraction")
    await async_client.hset(keys.WORKER_QUEUES, mapping={"w1": "extraction", "w2": "chat", "gone": "extraction"})
    await async_client.rpush(keys.held("w2"), "a message")
    await async_client.set(keys.held("gone"), "gone")
    assert not await is_there()
    await async_client.rpush(keys.held("w1"), "a message")
    assert await is_there()
    await async_client.delete(keys.held("w1"))
    await async_client.sadd(keys.JOBS, "job_1")
    await async_client.hset(keys.job("job_1"), mapping={"state": "open"})
    assert not await is_there()
    await async_client.hset(keys.job("job_1"), "waits", "waits for vLLM: starting")
    assert await is_there()
    await async_client.hset(keys.job("job_1"), "state", "closing")
    assert not await is_there()


async def test_on_demand_the_engine_comes_with_the_work_and_leaves_after_the_idle_time(
    async_client: redis.asyncio.Redis, settings: Settings
) -> None:
    host = Host(async_client, settings, vllm_on_demand=True, vllm_idle_s=0.0, llm_engine_mode=Mode.VLLM)
    leader = await host.lead()
    await host.settle(leader, (Phase.STOPPED, Phase.STOPPED))
    assert (await host.control(Engine.VLLM)).reason == "Not started (on demand, by default: no extraction work)"
    await async_client.rpush("extraction", "a message")
    leader._senses._demand._looked_at = float("-inf")
    await host.settle(leader, VLLM_READY)
    await async_client.delete("extraction")
    leader._senses._demand._looked_at = float("-inf")
    await host.settle(leader, (Phase.STOPPED, Phase.STOPPED))
    assert host.drivers[Engine.VLLM].presence is Presence.ABSENT


async def test_a_driver_that_hangs_is_said_and_does_not_hold_the_other_engine_up(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senses, "_WITHIN_S", 0.05)
    leader = await ollama_serves(host)
    host.drivers[Engine.VLLM].hangs = True
    host.drivers[Engine.OLLAMA].presence = Presence.ABSENT
    await host.settle(leader, (Phase.STOPPED, Phase.STARTING))
    await host.settle(leader, OLLAMA_READY)
    await host.client.set(keys.MODE, "vllm")
    await host.settle(leader, (Phase.STARTING, Phase.STOPPED))
    await leader.step()
    assert (await host.control(Engine.VLLM)).reason == "the driver fake does not answer within 0.05 s"
    host.drivers[Engine.VLLM].hangs = False
    await host.settle(leader, VLLM_READY)


async def test_a_gauge_that_hangs_is_said_and_holds_no_pass_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senses, "_WITHIN_S", 0.05)
    host.hangs = True
    await ollama_serves(host)
    assert "AEGIS_MEMORY_SOURCE=auto gives nothing within 0.05 s" in str(await host.client.get(keys.MEMORY))


async def test_a_mode_that_was_written_while_redis_did_not_answer_is_not_forgotten(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await ollama_serves(host)
    leader._senses.note_mode_written()

    async def unread() -> Mode:
        raise RedisConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(leader._senses, "_read_mode", unread)
        with pytest.raises(RedisConnectionError):
            await leader.step()
    await leader.step()
    assert leader._senses._asked_at is not None
