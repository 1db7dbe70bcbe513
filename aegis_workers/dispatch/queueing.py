"""Everything that waits for the task boundary in this process."""

from collections import Counter
from collections.abc import Iterator, Mapping

from aegis_workers.dispatch.lines import Awaited, Line, Place, Waiter
from aegis_workers.errors import AegisError, WaitedTooLong
from aegis_workers.routing import Engine, Lane


class Lines:
    """One line for each lane, and for each engine that a job stays on."""

    def __init__(self) -> None:
        self._lines: Mapping[Place, Line] = {(lane, only): Line() for lane in Lane for only in (None, *Engine)}

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines.values())

    def __getitem__(self, place: Place) -> Line:
        return self._lines[place]

    def join(self, waiter: Waiter) -> None:
        """It waits from now on, behind all others of its place."""
        self._lines[waiter.place].waiters.append(waiter)

    @property
    def is_full(self) -> bool:
        """Whether calls wait for a slot."""
        return any(line.is_full for line in self)

    @property
    def waits_for_engine(self) -> bool:
        """Whether calls wait for an engine to be up."""
        return any(line.waits_for_engine for line in self)

    @property
    def reasons(self) -> Mapping[str, int]:
        """How many wait, by what for in words."""
        counts: Counter[str] = Counter()
        for line in self:
            counts[line.reason] += sum(1 for _ in line.head())
        return dict(+counts)

    @property
    def awaited(self) -> Mapping[tuple[Lane, Awaited], int]:
        """How many wait, by lane and in words that can be counted by; may be read from any thread."""
        counts: Counter[tuple[Lane, Awaited]] = Counter()
        for (lane, _), line in self._lines.items():
            counts[lane, line.awaited] += sum(1 for waiter in tuple(line.waiters) if not waiter.admitted.done())
        return counts

    def fail_all(self, error: AegisError) -> None:
        """End the waiting of everybody."""
        for line in self:
            line.fail_all(error)

    def fail_older(self, than: float) -> None:
        """End the waiting of those who came before `than`, which is monotonic, with `WaitedTooLong`."""
        for line in self:
            line.fail_older(than, WaitedTooLong(line.reason))
