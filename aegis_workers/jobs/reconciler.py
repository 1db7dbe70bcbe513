"""What was fed and got lost on its way is fed again: batches that are not finished, and that neither the queue nor a worker has.

A look at the queue costs something, so it is taken only where a job has not moved for long, and what one look misses must be
missed by a second one: messages move.
"""

import asyncio
import time

import redis.asyncio
import structlog

from aegis_workers.jobs import message
from aegis_workers.jobs.bitmap import ranges_of
from aegis_workers.jobs.charge import Charge
from aegis_workers.jobs.steps import Deposed
from aegis_workers.state import whereabouts
from aegis_workers.state.job_state import JobState
from aegis_workers.state.jobs import FedBatch, Jobs, Ruling

log = structlog.get_logger(__name__)


class Reconciler:
    """Looks for lost batches under one token."""

    def __init__(self, client: redis.asyncio.Redis, jobs: Jobs, token: int) -> None:
        self._client = client
        self._jobs = jobs
        self._token = token

    async def look(self, charge: Charge, state: JobState) -> None:
        """Feed again what of a job is lost. Raises `RedisError`, `SpoolUnavailable` and `Deposed`."""
        now = time.monotonic()
        charge.suspicion.note(state, now)
        if not charge.suspicion.is_due(state, now):
            return
        # In this order: a batch that is finished meanwhile is in none of the two.
        fed = await self._jobs.batches(state.job_id)
        present = await whereabouts.task_ids(self._client, message.QUEUE)
        for batch in charge.suspicion.judge(fed, present, now):
            await self._feed_again(charge, state, batch)

    async def _feed_again(self, charge: Charge, state: JobState, lost: FedBatch) -> None:
        done = charge.ledger.done
        numbers = [number for first, last in lost.chunks for number in range(first, last + 1) if number not in done]
        again = await asyncio.to_thread(charge.feeder.again, ranges_of(numbers))
        messages = [charge.contents.to_feed(batch, engine=charge.pinned, now=time.time()) for batch in again]
        ruling = await self._jobs.refeed(self._token, state.job_id, lost.batch_id, messages, queue=message.QUEUE, fed=state.fed)
        if ruling is Ruling.NOT_LEADER:
            raise Deposed
        log.warning("batch.fed_again", job=state.job_id, batch=lost.batch_id, chunks=len(numbers), done=ruling is Ruling.DONE)
