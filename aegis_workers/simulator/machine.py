"""What both engine doubles are made of: a clock, counts, a pace and faults."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from aegis_workers.simulator.behaviour import Behaviour, Faults
from aegis_workers.simulator.clock import Clock, Gate, Timeline
from aegis_workers.simulator.memory import Memory
from aegis_workers.simulator.options import Options
from aegis_workers.simulator.pace import Pace
from aegis_workers.simulator.stats import Requests, Stats
from aegis_workers.simulator.tally import Tally


class Machine:
    """One simulated engine, without its wire protocol. `die` ends it as a crash would."""

    def __init__(self, options: Options, clock: Clock, die: Callable[[], None]) -> None:
        self.options = options
        self.timeline = Timeline(clock)
        self.stats = Stats()
        self.requests = Requests(kept=options.record)
        self.faults = Faults(options.seed)
        self.pace = Pace(self.timeline, options)
        self.awake = Gate(self.timeline)
        self.memory = Memory(options)
        self.tally = Tally(options.tally)
        self.die = die

    def behave(self, behaviour: Behaviour) -> None:
        """Put `behaviour` in force."""
        self.faults.set(behaviour)
        if behaviour.asleep:
            self.awake.close()
        else:
            self.awake.open()

    async def admit(self, fault: Behaviour) -> None:
        """Return once a call may queue for a slot."""
        if fault.die == "on_call":
            self.die()
            await _closed()
        await self.awake.passed()

    async def prefill(self, fault: Behaviour, prompt_tokens: int) -> None:
        """Return once the prompt has been read, by a call that holds its slot."""
        if fault.hang:
            await self.timeline.forever()
        await self.timeline.sleep(fault.slow_s)
        await self.pace.read(prompt_tokens)

    async def drop(self, request: web.Request) -> None:
        """Close the client's connection, after what was written to it; never returns."""
        if request.transport is not None:
            request.transport.close()
        await _closed()

    async def drop_within(self, request: web.Request, body: bytes, headers: dict[str, str]) -> None:
        """Close the client's connection in the middle of `body`; never returns."""
        response = web.StreamResponse(headers=headers | {"Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        await self.drop(request)


async def _closed() -> None:
    """Wait for the cancellation that follows when a connection is closed."""
    await asyncio.get_running_loop().create_future()
