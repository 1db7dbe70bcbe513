"""Engines that are led in this process, on a real Redis, through drivers that do what they are told at once."""

import asyncio
from collections.abc import Sequence
from typing import Any

import redis.asyncio
from fake_engine import FakeEngine

from aegis_workers.controller.driver import Confirm, Observation, Presence, unasked
from aegis_workers.controller.engines import Engines
from aegis_workers.controller.equipment import Equipment
from aegis_workers.controller.snapshot import Memory
from aegis_workers.errors import DriverFailed
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.state import engine_control, keys
from aegis_workers.state.engine_control import Control, Phase
from aegis_workers.state.leader import Leadership

SIZES = {Engine.VLLM: 40.0, Engine.OLLAMA: 24.0}
TOTAL_GB = 50.0
WITHIN_S = 20.0


class FakeDriver:
    """What is set in motion has happened when it is looked at for the second time."""

    name = "fake"
    can_start = True

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.presence = Presence.ABSENT
        self.starts = 0
        self.releases = 0
        self.refusal = ""
        self.ended = False
        self.fails = False
        self.hangs = False

    async def observe(self) -> Observation:
        if self.hangs:
            await asyncio.Event().wait()
        seen = Observation(presence=self.presence, ended=self.ended, last_words="a text of a user" if self.ended else "")
        if self.presence is Presence.COMING:
            self.presence, self.ended = (Presence.ABSENT, True) if self.fails else (Presence.PRESENT, False)
        elif self.presence is Presence.GOING:
            self.presence = Presence.ABSENT
        return seen

    async def start(self, confirm: Confirm = unasked) -> None:
        await self.before_acting()
        await confirm()
        self.starts += 1
        if self.refusal:
            raise DriverFailed(self.refusal)
        if self.presence is Presence.ABSENT:
            self.presence, self.ended = Presence.COMING, False

    async def release(self, confirm: Confirm = unasked) -> None:
        await self.before_acting()
        await confirm()
        self.releases += 1
        if self.presence is not Presence.ABSENT:
            self.presence = Presence.GOING

    async def before_acting(self) -> None:
        """What happens while the driver looks around."""

    async def aclose(self) -> None:
        """Nothing to close."""


class Host:
    """A host that is too small for both engines, and the controllers that lead them one after another."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings, **chosen: Any) -> None:
        self.client = client
        values = {
            "vllm_model": "sim",
            "ollama_model": "sim",
            "vllm_memory_gb": SIZES[Engine.VLLM],
            "ollama_memory_gb": SIZES[Engine.OLLAMA],
            "min_dwell_s": 0.0,
            "llm_engine_mode": Mode.OLLAMA,
        }
        self.settings = settings.model_copy(update=values | chosen)
        self.drivers = {engine: FakeDriver(engine) for engine in Engine}
        self.clients = {engine: FakeEngine(engine) for engine in Engine}
        self.hangs = False
        self._leaders = 0

    async def measure(self) -> Memory:
        """What the host's engines leave free. It is its own gauge."""
        if self.hangs:
            await asyncio.Event().wait()
        held = sum(SIZES[one.engine] for one in self.drivers.values() if one.presence is not Presence.ABSENT)
        assert held <= TOTAL_GB, "two engines are there"
        return Memory(free_gb=TOTAL_GB - held, total_gb=TOTAL_GB, source="test")

    async def lead(self) -> Engines:
        """Another controller, which leads from now on, whoever did before."""
        self._leaders += 1
        await self.client.delete(keys.CONTROLLER)
        token = await Leadership(self.client, f"leader {self._leaders}").hold()
        assert token is not None
        replicas: dict[Engine, Sequence[FakeEngine]] = {engine: (client,) for engine, client in self.clients.items()}
        equipment = Equipment(drivers=self.drivers, clients=replicas, gauge=self)
        return Engines(self.client, self.settings, token, equipment)

    async def control(self, engine: Engine) -> Control:
        found = (await engine_control.read_all(self.client))[engine].control
        assert found is not None
        return found

    async def phases(self) -> tuple[Phase | None, Phase | None]:
        """Of vLLM and of Ollama."""
        records = await engine_control.read_all(self.client)
        vllm, ollama = (records[engine].control for engine in (Engine.VLLM, Engine.OLLAMA))
        return None if vllm is None else vllm.phase, None if ollama is None else ollama.phase

    async def settle(self, leader: Engines, expected: tuple[Phase, Phase], *, passes: int = 60) -> None:
        """Passes until the engines are in these phases."""
        for _ in range(passes):
            await leader.step()
            await asyncio.sleep(0)  # proofs go on meanwhile
            if await self.phases() == expected:
                return
        raise AssertionError(await self.phases())

    async def eventually(self, expected: tuple[Phase, Phase]) -> None:
        """Returns when a leader that runs has brought the engines there."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                if await self.phases() == expected:
                    return
                await asyncio.sleep(0.01)
