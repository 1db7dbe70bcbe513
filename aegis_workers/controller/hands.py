"""What is done to the engines, and what came of it as far as this leader knows."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import structlog

from aegis_workers.controller.case import Effect
from aegis_workers.controller.driver import Confirm, Driver, unasked
from aegis_workers.engines.base import EngineClient
from aegis_workers.errors import DriverFailed, EngineError
from aegis_workers.routing import Engine

log = structlog.get_logger(__name__)

# What a driver sets in motion takes less: it waits for nothing. The order ends before another could lead.
_WITHIN_S: Final = 7.5
# An engine's first token may wait for something to be compiled.
_PROVE_WITHIN_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Felt:
    """What came of the last acts: see `EngineFacts`."""

    refused: str = ""
    proving: bool = False
    proven: bool = False
    unproven: str = ""


class Hands:
    """Carries out effects. A proof goes on in the background; the others are done when `do` returns."""

    def __init__(self, drivers: Mapping[Engine, Driver], clients: Mapping[Engine, Sequence[EngineClient]]) -> None:
        self._drivers = drivers
        self._clients = clients
        self._felt: dict[Engine, Felt] = {}
        self._proofs: dict[Engine, asyncio.Task[None]] = {}

    def felt(self, engine: Engine) -> Felt:
        """What came of what was done to the engine since it was forgotten last. Raises what a proof died of."""
        proof = self._proofs.get(engine)
        if proof is not None and proof.done():
            self._proofs.pop(engine).result()
        return self._felt.get(engine, Felt())

    def forget(self, engine: Engine) -> None:
        """What came of earlier acts says nothing any more; a proof under way is broken off."""
        self._felt.pop(engine, None)
        proof = self._proofs.pop(engine, None)
        if proof is not None:
            proof.cancel()

    async def do(self, engine: Engine, effect: Effect, confirm: Confirm = unasked) -> None:
        """Carry an effect out. What a driver says of its failure is felt, and not raised.

        A driver awaits `confirm` right before it acts: what that raises is raised.
        """
        match effect:
            case Effect.START:
                self.forget(engine)
                refused = await self._tell(engine, effect, confirm)
                self._felt[engine] = Felt(refused=refused)
            case Effect.RELEASE:
                self.forget(engine)
                refused = await self._tell(engine, effect, confirm)
                if refused:
                    log.warning("engine.not_released", engine=engine.value, error=refused)
            case Effect.PROVE:
                if engine not in self._proofs:
                    self._proofs[engine] = asyncio.ensure_future(self._prove(engine))
            case _:
                assert_never(effect)

    async def _tell(self, engine: Engine, effect: Effect, confirm: Confirm) -> str:
        """Why the driver did not do so; empty where it did. Raises what `confirm` raises."""
        driver = self._drivers[engine]
        try:
            async with asyncio.timeout(_WITHIN_S):
                await (driver.start(confirm) if effect is Effect.START else driver.release(confirm))
        except DriverFailed as error:
            return str(error) or repr(error)
        except TimeoutError:
            return f"the driver {driver.name} did not {effect} it within {_WITHIN_S:g} s"
        return ""

    async def _prove(self, engine: Engine) -> None:
        self._felt[engine] = Felt(proving=True, unproven=self._felt.get(engine, Felt()).unproven)
        try:
            for client in self._clients[engine]:
                await client.warm_up()
                async with asyncio.timeout(_PROVE_WITHIN_S):
                    await client.prove()
        except EngineError as error:
            self._felt[engine] = Felt(unproven=str(error) or repr(error))
        except TimeoutError:
            self._felt[engine] = Felt(unproven=f"nothing within {_PROVE_WITHIN_S:g} s")
        else:
            self._felt[engine] = Felt(proven=True)

    async def aclose(self) -> None:
        """Break off what is under way. The engines are left as they are."""
        proofs = list(self._proofs.values())
        for engine in list(self._proofs):
            self.forget(engine)
        await asyncio.gather(*proofs, return_exceptions=True)
