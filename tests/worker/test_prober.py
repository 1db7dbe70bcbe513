import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import redis
import redis.asyncio
from fake_engine import FakeEngine
from redis.exceptions import ConnectionError as RedisConnectionError
from settling import WAIT_S, ended

from aegis_workers.engines.base import Probe, Readiness
from aegis_workers.errors import EngineBusy
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.state import engine_control, engine_status, keys
from aegis_workers.state import mode as modes
from aegis_workers.state.engine_control import Control, Phase
from aegis_workers.state.engine_status import EngineStatus, ReplicaStatus
from aegis_workers.state.leader import Leadership
from aegis_workers.state.lease import Lease
from aegis_workers.worker.prober import Prober, should_warm_up

pytestmark = pytest.mark.anyio

VLLM, OLLAMA = Engine.VLLM, Engine.OLLAMA
READY, STARTING, UNAVAILABLE = Readiness.READY, Readiness.STARTING, Readiness.UNAVAILABLE
COLD = Probe(readiness=READY, loaded=False)
GONE = Probe(readiness=UNAVAILABLE, reason="connection refused")


@pytest.mark.parametrize(
    ("mode", "vllm", "room_for_both", "expected"),
    [
        (Mode.OLLAMA, [], False, True),
        (Mode.OLLAMA, [UNAVAILABLE], False, True),
        (Mode.OLLAMA, [READY], False, False),
        (Mode.OLLAMA, [STARTING], False, False),
        (Mode.OLLAMA, [UNAVAILABLE, STARTING], False, False),
        (Mode.OLLAMA, [READY], True, True),
        (Mode.AUTO, [UNAVAILABLE], False, True),
        (Mode.AUTO, [READY], False, False),
        (Mode.AUTO, [STARTING], True, True),
        (Mode.VLLM, [], True, False),
        (Mode.VLLM, [UNAVAILABLE], True, False),
        (Mode.VLLM, [READY], True, False),
    ],
)
def test_the_model_is_loaded_where_the_mode_uses_it_and_no_vllm_stands_on_its_memory(
    mode: Mode,
    vllm: list[Readiness],
    room_for_both: bool,  # noqa: FBT001 - a column of the table
    expected: bool,  # noqa: FBT001
) -> None:
    found = {VLLM: [ReplicaStatus(url=f"http://{number}", state=state) for number, state in enumerate(vllm)], OLLAMA: []}
    assert should_warm_up(mode, found, room_for_both=room_for_both) is expected


@dataclass
class Worker:
    """The prober of one worker, on engines that it alone sees."""

    engines: Mapping[Engine, tuple[FakeEngine, ...]]
    prober: Prober

    @property
    def vllm(self) -> FakeEngine:
        return self.engines[VLLM][0]

    @property
    def ollama(self) -> FakeEngine:
        return self.engines[OLLAMA][0]

    async def rounds(self, count: int = 3) -> None:
        """Returns when `count` more rounds have begun: all but the last are then on record."""
        async with asyncio.timeout(WAIT_S):
            while not self.ollama.probed.locked():
                await self.ollama.probed.acquire()
            for _ in range(count):
                await self.ollama.probed.acquire()


@asynccontextmanager
async def probing(worker: Worker) -> AsyncIterator[Worker]:
    task = asyncio.create_task(worker.prober.run())
    try:
        yield worker
    finally:
        await ended(task)
    assert task.cancelled(), task


class Place:
    """Workers on one Redis."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings) -> None:
        self.client = client
        self.settings = settings

    def worker(self, settings: Settings | None = None) -> Worker:
        engines = {engine: (FakeEngine(engine),) for engine in Engine}
        mode, statuses = modes.cache(self.client, Mode.AUTO), engine_status.cache(self.client)
        return Worker(engines, Prober(self.client, engines, settings or self.settings, mode, statuses))


@pytest.fixture
def place(async_client: redis.asyncio.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(engine_status, "MAX_AGE_S", 0.0)  # no push here
    return Place(async_client, settings)


def status(client: redis.Redis, engine: Engine) -> EngineStatus:
    return engine_status.read(client, engine)


FENCED = Control(phase=Phase.STOPPING, since=1.0, fenced=True)


async def control(place: Place, found: Control) -> None:
    """A controller leads, and has said this of Ollama."""
    token = await Leadership(place.client, "leader").hold()
    assert token
    await engine_control.write(place.client, token, OLLAMA, found, instead_of="")


class TestElection:
    async def test_one_of_two_probes_and_the_other_takes_over_as_soon_as_it_stops(self, place: Place) -> None:
        first, second = place.worker(), place.worker()
        asked = asyncio.Semaphore(0)
        hold = second.prober._lease.hold

        async def counted() -> bool:
            asked.release()
            return await hold()

        second.prober._lease.hold = counted  # type: ignore[method-assign] # a spy
        async with probing(second):
            async with probing(first):
                pass
            await second.rounds(1)
        async with probing(first):
            await first.rounds(1)
            async with probing(second):
                before = second.ollama.probed._value
                async with asyncio.timeout(WAIT_S):
                    for _ in range(asked._value + 5):
                        await asked.acquire()
                await first.rounds(2)
                assert second.ollama.probed._value == before

    async def test_a_prober_that_died_is_replaced_when_its_lease_ends(self, place: Place, client: redis.Redis) -> None:
        dead = Lease(place.client, keys.PROBER, ttl_s=0.1)
        assert await dead.hold()
        async with probing(place.worker()) as worker:
            await worker.rounds(1)
        assert client.get(keys.PROBER) is None

    async def test_the_lease_outlives_a_round_in_which_everything_takes_as_long_as_it_may(self) -> None:
        slow = Settings(_env_file=None, probe_interval_s=1.0, probe_timeout_s=5.0)
        lease = Place(redis.asyncio.Redis(), slow).worker().prober._lease
        assert lease._ttl_ms / 1000 > slow.probe_interval_s + 2 * slow.probe_timeout_s

    async def test_a_redis_that_does_not_answer_costs_a_round(self, place: Place) -> None:
        worker = place.worker()
        hold = worker.prober._lease.hold

        async def fails_once() -> bool:
            worker.prober._lease.hold = hold  # type: ignore[method-assign] # a double
            raise RedisConnectionError("gone")

        worker.prober._lease.hold = fails_once  # type: ignore[method-assign] # a double
        async with probing(worker):
            await worker.rounds(1)


class TestLooking:
    async def test_all_workers_learn_what_was_found(self, place: Place, client: redis.Redis) -> None:
        worker = place.worker()
        worker.vllm.found = GONE
        async with probing(worker):
            await worker.rounds()
            assert (status(client, VLLM).state, status(client, VLLM).reason) == (UNAVAILABLE, "connection refused")
            assert status(client, OLLAMA).ready_urls == (worker.ollama.url,)

    async def test_an_engine_is_ready_only_when_it_has_completed_a_token(self, place: Place, client: redis.Redis) -> None:
        worker = place.worker()
        worker.vllm.unproven = EngineBusy("vLLM could not serve the request now (HTTP 500)", words="a prompt")
        async with probing(worker):
            await worker.rounds()
            assert status(client, VLLM).state is STARTING
            assert status(client, VLLM).reason == (
                "answers, but completes no token yet: vLLM could not serve the request now (HTTP 500)"
            )
            worker.vllm.unproven = None
            await worker.rounds()
            assert status(client, VLLM).state is READY

    async def test_a_proof_that_takes_too_long_is_none(self, place: Place, client: redis.Redis) -> None:
        worker = place.worker(place.settings.model_copy(update={"probe_timeout_s": 0.2}))
        for_ever = asyncio.Event()
        worker.vllm.prove = for_ever.wait  # type: ignore[method-assign,assignment] # a double
        async with probing(worker):
            await worker.rounds(2)
            assert status(client, VLLM).state is STARTING
            assert "nothing within 0.2 s" in status(client, VLLM).reason

    async def test_an_engine_that_stays_ready_is_not_asked_for_a_token_again_until_it_was_away(self, place: Place) -> None:
        async with probing(place.worker()) as worker:
            await worker.rounds(5)
            assert worker.vllm.proofs == 1
            worker.vllm.found = GONE
            await worker.rounds()
            worker.vllm.found = Probe(readiness=READY, loaded=True)
            await worker.rounds()
            assert worker.vllm.proofs == 2

    async def test_an_ollama_that_would_first_load_its_model_is_ready_without_a_proof(
        self, place: Place, client: redis.Redis
    ) -> None:
        worker = place.worker()
        worker.ollama.found = COLD
        client.set(keys.MODE, "vllm")
        async with probing(worker):
            await worker.rounds()
            assert status(client, OLLAMA).state is READY
            assert worker.ollama.proofs == 0

    async def test_a_fenced_engine_is_asked_for_no_token_which_could_load_what_is_to_unload(
        self, place: Place, client: redis.Redis
    ) -> None:
        await control(place, FENCED)
        async with probing(place.worker()) as worker:
            await worker.rounds()
            assert status(client, OLLAMA).state is READY
            assert (worker.ollama.proofs, worker.vllm.proofs) == (0, 1)


class TestWarmUp:
    async def warm_ups(self, worker: Worker) -> int:
        async with probing(worker):
            await worker.rounds(4)
        return worker.ollama.warm_ups

    def cold(self, place: Place, settings: Settings | None = None) -> Worker:
        worker = place.worker(settings)
        worker.vllm.found, worker.ollama.found = GONE, COLD
        return worker

    @pytest.mark.parametrize("mode", ["ollama", "auto"])
    async def test_a_cold_model_is_loaded_once(self, place: Place, client: redis.Redis, mode: str) -> None:
        client.set(keys.MODE, mode)
        assert await self.warm_ups(self.cold(place)) == 1

    async def test_it_is_not_loaded_in_mode_vllm(self, place: Place, client: redis.Redis) -> None:
        client.set(keys.MODE, "vllm")
        assert await self.warm_ups(self.cold(place)) == 0

    async def test_it_is_not_loaded_while_a_vllm_answers(self, place: Place) -> None:
        worker = self.cold(place)
        worker.vllm.found = Probe(readiness=STARTING)
        assert await self.warm_ups(worker) == 0

    async def test_it_is_loaded_beside_a_vllm_where_both_fit(self, place: Place) -> None:
        roomy = place.settings.model_copy(update={"memory_budget_gb": 128.0})
        worker = self.cold(place, roomy)
        worker.vllm.found = Probe(readiness=READY, loaded=True)
        assert await self.warm_ups(worker) == 1

    async def test_an_ollama_that_comes_late_is_warmed_up_when_it_comes(self, place: Place) -> None:
        worker = self.cold(place)
        worker.ollama.found = GONE
        async with probing(worker):
            await worker.rounds()
            assert worker.ollama.warm_ups == 0
            worker.ollama.found = COLD
            await worker.rounds()
            assert worker.ollama.warm_ups == 1

    async def test_a_model_that_was_loaded_at_start_is_not_loaded_again_when_it_is_no_longer_needed(self, place: Place) -> None:
        """After its `keep_alive` the memory is free for others: only a call may take it again."""
        worker = self.cold(place)
        worker.ollama.found = Probe(readiness=READY, loaded=True)
        async with probing(worker):
            await worker.rounds()
            worker.ollama.found = COLD
            await worker.rounds()
        assert worker.ollama.warm_ups == 0

    async def test_a_controller_that_looks_after_the_engine_says_what_is_loaded(self, place: Place) -> None:
        await control(place, Control(phase=Phase.READY, since=1.0))
        assert await self.warm_ups(self.cold(place)) == 0

    async def test_it_is_loaded_where_the_controller_has_gone(self, place: Place, client: redis.Redis) -> None:
        await control(place, Control(phase=Phase.READY, since=1.0))
        client.delete(keys.CONTROLLER)
        assert await self.warm_ups(self.cold(place)) == 1

    async def test_it_is_not_loaded_while_it_is_fenced_though_the_controller_has_gone(
        self, place: Place, client: redis.Redis
    ) -> None:
        await control(place, FENCED)
        client.delete(keys.CONTROLLER)
        assert await self.warm_ups(self.cold(place)) == 0

    async def test_a_controller_that_looks_after_no_engine_leaves_it_to_the_prober(self, place: Place) -> None:
        assert await Leadership(place.client, "leader").hold()
        assert await self.warm_ups(self.cold(place)) == 1

    async def test_a_warm_up_that_fails_does_not_stop_the_prober(self, place: Place) -> None:
        worker = self.cold(place)

        async def fail() -> None:
            raise EngineBusy("no memory")

        worker.ollama.warm_up = fail  # type: ignore[method-assign] # a double
        async with probing(worker):
            await worker.rounds(4)
