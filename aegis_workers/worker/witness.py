"""Whether this process has watched the others for long enough to say that one of them is dead."""

from aegis_workers.state.liveness import MAX_GAP_S

# A worker that lives says so each second: who is silent while Redis answers for this long is dead, frozen or cut off.
WATCHED_S = 3.0


class Witness:
    """Counts the looks that Redis answered. A pause of Redis, or of this process, makes it begin anew: all were silent then."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._last: float | None = None
        self._last_ms: int | None = None

    def saw(self, now: float, redis_ms: int) -> None:
        """A look was answered at `now` (monotonic seconds), when the clock of Redis said `redis_ms`."""
        if self._last is None or self._since is None or now - self._last > MAX_GAP_S:
            self._since = now
        self._last, self._last_ms = now, redis_ms

    def doubts(self) -> None:
        """Something was off: what was seen so far does not count."""
        self._since = self._last = self._last_ms = None

    def judges_since(self, now: float) -> int | None:
        """The moment of the last look, by the clock of Redis, if the next one may judge; None if it may not."""
        if self._since is None or self._last is None or now - self._last > MAX_GAP_S:
            return None
        return self._last_ms if self._last - self._since >= WATCHED_S else None
