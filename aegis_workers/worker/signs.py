"""The signs of life of one worker process."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Signs:
    """What a worker process shows at one moment. Times are seconds of the monotonic clock.

    `turned_at` is when Celery's main loop last turned, `connected` whether its consumer has Redis; `taken` counts the messages of
    the process's whole life, `held` those that it has now. `refused` means that Redis answers and gives no messages, `failed`
    that the process has decided to end itself, `inline` that tasks run on the main loop itself. `queued` is what its `queues`
    hold; None where Redis did not answer when it was last asked, and `answering_since` is when it began to.
    """

    at: float
    turned_at: float
    connected: bool
    queues: tuple[str, ...]
    taken: int
    held: int
    stopping: bool
    refused: bool = False
    failed: bool = False
    inline: bool = False
    queued: int | None = None
    answering_since: float | None = None

    @property
    def stalled_s(self) -> float:
        """For how long the main loop has not turned although it could have: Redis let it, and no task was in its way."""
        if self.answering_since is None or (self.inline and self.held):
            return 0.0
        return max(0.0, self.at - max(self.turned_at, self.answering_since))

    def hangs(self, limit_s: float) -> bool:
        """Whether the main loop has stood still for so long that it will not turn again. A worker that stops has left it."""
        return self.stalled_s >= limit_s and not self.stopping
