"""Whether a job has stood still for so long that its batches may be lost: decided on looks that are apart."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from aegis_workers.state.job_state import JobState
from aegis_workers.state.jobs import FedBatch

# How long a job must stand still before anybody looks, and how far two looks are apart.
STILL_S = 20.0
AGAIN_S = 5.0


@dataclass(kw_only=True)
class Suspicion:
    """What one job was seen to do. `lost`: the batches that the last look missed."""

    seen: tuple[int, int, int] = (-1, -1, -1)
    since: float = 0.0
    looked_at: float = float("-inf")
    lost: frozenset[str] = frozenset()

    def note(self, state: JobState, now: float) -> None:
        """How far the job has come, at monotonic time `now`."""
        seen = (state.recorded, state.out_chunks, state.fed)
        if seen != self.seen:
            self.seen, self.since, self.lost = seen, now, frozenset()

    def is_due(self, state: JobState, now: float) -> bool:
        """Whether the job has stood still so long that its batches should be looked for, and the last look is long enough ago."""
        return state.out_chunks > 0 and self.stands_still(now) and now - self.looked_at >= AGAIN_S

    def stands_still(self, now: float) -> bool:
        """Whether the job has not moved for long."""
        return now - self.since >= STILL_S

    def judge(self, fed: Sequence[FedBatch], present: Collection[str], now: float) -> Sequence[FedBatch]:
        """The batches of `fed` that this look and the one before missed; `present` are those that were found."""
        missing = [batch for batch in fed if batch.batch_id not in present]
        lost = [batch for batch in missing if batch.batch_id in self.lost]
        self.lost, self.looked_at = frozenset(batch.batch_id for batch in missing), now
        return lost
