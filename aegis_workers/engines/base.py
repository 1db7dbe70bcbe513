"""What every engine client can do: one protocol, whatever the engine."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from aegis_workers.completion import Completion, CompletionRequest
from aegis_workers.routing import Engine


class Readiness(StrEnum):
    """What a probe found."""

    READY = "ready"
    STARTING = "starting"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one replica is now, with the reason in words where it is not ready.

    `models` are the names that the server offers. `loaded`: the configured model is in memory (always so for a ready vLLM;
    Ollama loads on first use). `running` and `waiting` are the engine's own counts of requests, None where it gives none.
    """

    readiness: Readiness
    reason: str = ""
    version: str | None = None
    models: tuple[str, ...] = ()
    loaded: bool = False
    running: int | None = None
    waiting: int | None = None


class EngineClient(Protocol):
    """One replica of one engine. Every method may be cancelled at any point: the connection is then closed.

    `complete`, `stream` and `warm_up` raise `RequestRefused`, `EngineBusy` or `EngineLost`; they know no deadline of their own
    (the caller cancels). `probe` never raises: it says what it found, within `probe_timeout_s` of the client's settings.
    """

    @property
    def engine(self) -> Engine: ...

    @property
    def url(self) -> str:
        """Base URL of the replica, without a trailing slash."""
        ...

    async def complete(self, request: CompletionRequest) -> Completion:
        """The whole answer."""
        ...

    def stream(self, request: CompletionRequest) -> AsyncGenerator[str | Completion, None]:
        """The answer as it is generated: pieces of its text (never empty), and last one `Completion` with the whole."""
        ...

    async def probe(self) -> Probe:
        """What the replica is now."""
        ...

    async def prove(self) -> None:
        """A completion of one token: the only proof that a server which answers also generates."""
        ...

    async def warm_up(self) -> None:
        """Load the model, so that the next call does not wait for it. Does nothing where the model is always loaded."""
        ...

    async def release(self) -> None:
        """Give the model's memory back, where the engine can do so while it runs."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
