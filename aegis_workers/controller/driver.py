"""What the controller can do with an engine: one protocol, whoever runs the engine."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from aegis_workers.errors import AegisError
from aegis_workers.routing import Engine


class Presence(StrEnum):
    """How much of an engine there is.

    `absent`: it holds no memory, nothing of it runs. `coming`: it was started and does not answer yet. `present`: it answers,
    and holds its memory. `going`: it was told to release and has not given everything back.
    """

    ABSENT = "absent"
    COMING = "coming"
    PRESENT = "present"
    GOING = "going"


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a driver sees of its engine now. `reason` says it in words.

    `ended`: it ran and ended by itself since the last start; `last_words` are then the last lines that it wrote, for people.
    """

    presence: Presence
    reason: str = ""
    ended: bool = False
    last_words: str = ""


class NotNow(AegisError):
    """Whoever told the driver may not act any more: another leads, or wrote meanwhile. Nothing was done."""


# Asked right before an act, which may come a while after it was ordered. Raises `NotNow`, or whatever ends the caller.
Confirm = Callable[[], Awaitable[None]]


async def unasked() -> None:
    """For an act that nobody else may do."""


class Driver(Protocol):
    """One engine on this host. A driver remembers nothing that it could not see again: the next leader's begins anew.

    No method waits for what it sets in motion: `observe` tells how far that is. All may be called again at any point, and by a
    controller that knows nothing of the calls before. `start` and `release` raise `DriverFailed`, which says in words why nothing
    was set in motion; `observe` raises nothing else.
    """

    @property
    def engine(self) -> Engine: ...

    @property
    def name(self) -> str:
        """The word of the setting that chose it: `external`, `ollama`, `process`, `docker`."""
        ...

    @property
    def can_start(self) -> bool:
        """Whether the controller may start the engine, and have it give its memory back. False: somebody else runs it."""
        ...

    async def observe(self) -> Observation:
        """What there is of the engine. Returns within a few seconds, or may raise `TimeoutError`."""
        ...

    async def start(self, confirm: Confirm = unasked) -> None:
        """Set the start in motion, or the loading of the model. Nothing where that has happened.

        `confirm` is awaited last of all before that, and what it raises is raised: nothing was set in motion then.
        """
        ...

    async def release(self, confirm: Confirm = unasked) -> None:
        """Have the engine give its memory back: tell it to end, or to unload. A process that does not listen is killed in time.

        To be called again until `observe` finds it absent. `confirm`: as for `start`.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections. The engine is left as it is."""
        ...
