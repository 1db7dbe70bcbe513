"""An engine whose calls the test answers one by one."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from aegis_workers.completion import Completion, CompletionRequest, Finish
from aegis_workers.engines.base import Probe, Readiness
from aegis_workers.errors import EngineError
from aegis_workers.routing import Engine


@dataclass(eq=False)
class Asked:
    """One request that the engine has. `closed`: its caller closed it before it was answered."""

    request: CompletionRequest
    said: asyncio.Queue[str | Completion | EngineError] = field(default_factory=asyncio.Queue)
    closed: bool = False

    def say(self, *pieces: str) -> None:
        for piece in pieces:
            self.said.put_nowait(piece)

    def answer(self, text: str = "an answer", *, finish: Finish = Finish.STOP, completion_tokens: int | None = 7) -> None:
        self.said.put_nowait(Completion(text=text, finish=finish, prompt_tokens=3, completion_tokens=completion_tokens))

    def fail(self, error: EngineError) -> None:
        self.said.put_nowait(error)


class FakeEngine:
    """One replica. `open` are the requests that it has now, `asked` all that it ever had."""

    def __init__(self, engine: Engine, url: str = "") -> None:
        self.engine = engine
        self.url = url or f"http://{engine}"
        self.open: list[Asked] = []
        self.asked: list[Asked] = []
        self.found = Probe(readiness=Readiness.READY, loaded=True)
        self.unproven: Exception | None = None
        self.proofs = 0
        self.warm_ups = 0
        self.probed = asyncio.Semaphore(0)

    async def complete(self, request: CompletionRequest) -> Completion:
        async for part in self.stream(request):
            if isinstance(part, Completion):
                return part
        raise AssertionError("a stream ends with its completion")

    async def stream(self, request: CompletionRequest) -> AsyncGenerator[str | Completion, None]:
        asked = Asked(request)
        self.open.append(asked)
        self.asked.append(asked)
        try:
            while True:
                said = await asked.said.get()
                if isinstance(said, EngineError):
                    raise said
                yield said
                if isinstance(said, Completion):
                    return
        except (asyncio.CancelledError, GeneratorExit):
            asked.closed = True
            raise
        finally:
            self.open.remove(asked)

    async def probe(self) -> Probe:
        self.probed.release()
        return self.found

    async def prove(self) -> None:
        self.proofs += 1
        if self.unproven is not None:
            raise self.unproven

    async def warm_up(self) -> None:
        self.warm_ups += 1

    async def release(self) -> None:
        """Nothing to give back."""

    async def aclose(self) -> None:
        """Nothing to close."""
