"""What would be said again and again for as long as it lasts, and is said now and then."""

import time

SAY_AGAIN_S = 30.0


class Repetition:
    """When to say that something still is so."""

    def __init__(self) -> None:
        self._said_at = float("-inf")

    def is_due(self) -> bool:
        """Whether to say it now: for the first time, or for the first time in `SAY_AGAIN_S`."""
        now = time.monotonic()
        if now - self._said_at < SAY_AGAIN_S:
            return False
        self._said_at = now
        return True

    def end(self) -> None:
        """It is so no more; the next time is a first one again."""
        self._said_at = float("-inf")
