"""The jobs of one process, in place of Redis."""

import json
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from aegis_workers.state.job_outcomes import Outcome
from aegis_workers.state.job_state import State
from aegis_workers.state.recording import BatchStart, Recording


class RecordedChunks:
    """`outcomes` are recorded, in that order, and `finished` the batches that are. The test sets what it answers."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.finished: list[str] = []
        self.state: State | None = State.OPEN
        self.known = True
        self.engine: str | None = None
        self.answer = Recording.RECORDED
        self.away = 0

    async def begin_batch(self, job_id: str, batch_id: str, chunks: Sequence[int]) -> BatchStart:
        del job_id, batch_id
        if self.away:
            self.away -= 1
            raise RedisConnectionError("gone")
        recorded = frozenset(outcome.chunk for outcome in self.outcomes) & set(chunks)
        return BatchStart(state=self.state, engine=self.engine, recorded=recorded, known=self.known)

    async def record(self, job_id: str, outcomes: Sequence[Outcome], *, finished: str = "") -> Recording:
        del job_id
        if self.answer is Recording.RECORDED:
            self.outcomes.extend(outcomes)
            self.finished.extend(filter(None, [finished]))
        return self.answer

    @property
    def lines(self) -> dict[int, dict[str, Any]]:
        """What is recorded, by the number of the chunk."""
        return {outcome.chunk: json.loads(outcome.body) for outcome in self.outcomes}
