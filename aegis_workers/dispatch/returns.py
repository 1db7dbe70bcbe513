"""Slots on their way back: each goes with the next question, or alone where nobody asks."""

import asyncio
from collections.abc import Callable, Sequence

from aegis_workers.routing import Engine
from aegis_workers.state.slots import Give

# A slot for which nobody is known to wait goes back alone after this time: a question that comes within it takes it along, and
# does not first wait for the end of a round trip that was for the slot alone.
TOGETHER_S = 0.01


class Returns:
    """What calls of this process give back and Redis does not know of yet.

    `wake` has the pump exchange it; `is_full` says whether other calls of this process wait for a slot.
    """

    def __init__(self, wake: Callable[[], None], is_full: Callable[[], bool]) -> None:
        self._wake = wake
        self._is_full = is_full
        self._gives: dict[Engine, list[Give]] = {engine: [] for engine in Engine}
        self._wanted: set[Engine] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(len(gives) for gives in self._gives.values())

    def of(self, engine: Engine) -> Sequence[Give]:
        """What the engine gets back."""
        return self._gives[engine]

    def add(self, engine: Engine, give: Give) -> None:
        """A call has ended."""
        self._gives[engine].append(give)
        self.hurry(engine)

    def hurry(self, engine: Engine) -> None:
        """Sees to it that what the engine gets back goes: at once where somebody waits for it, or else soon."""
        if not self._gives[engine]:
            return
        if engine in self._wanted or self._is_full():
            self._wake()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TOGETHER_S, self._wake)

    def woken(self) -> None:
        """The pump looks at everything now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def take(self, engine: Engine) -> Sequence[Give]:
        """What is to be told to Redis now."""
        taken, self._gives[engine] = self._gives[engine], []
        return taken

    def put_back(self, engine: Engine, gives: Sequence[Give]) -> None:
        """Redis did not answer: it is told again."""
        self._gives[engine] = [*gives, *self._gives[engine]]

    def note_demand(self, engine: Engine, *, others_wait: bool) -> None:
        """What Redis said of other workers."""
        (self._wanted.add if others_wait else self._wanted.discard)(engine)
