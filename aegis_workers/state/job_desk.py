"""Bulk jobs in Redis, for those who do not lead: they look, and make sooner what the job's journal has decided already."""

from typing import Any, Final

import redis

from aegis_workers.state import cancels, keys

# KEYS: job. Without a leader's token: who calls it has written to the journal that the job ends, which no leader takes back.
_HASTEN: Final = """
if redis.call('HEXISTS', KEYS[1], 'state') == 0 then return 0 end
redis.call('HSET', KEYS[1], 'state', 'closing')
return 1
"""

_MARKS_AT_ONCE: Final = 1000


def leader(client: redis.Redis) -> str | None:
    """The name of the controller that leads; None where none does. Raises `RedisError`."""
    found: Any = client.get(keys.CONTROLLER)
    return None if found is None else str(found).partition(":")[2]


def hasten_end(client: redis.Redis, job_id: str) -> int:
    """Nothing of the job is recorded any more, and the calls of its batches are closed at the engines; how many batches.

    Only for a job whose journal says that it ends. Raises `RedisError`; the leader does the same in its next pass.
    """
    if not client.eval(_HASTEN, 1, keys.job(job_id)):
        return 0
    batches: Any = client.hkeys(keys.job_batches(job_id))
    for start in range(0, len(batches), _MARKS_AT_ONCE):
        cancels.mark(client, batches[start : start + _MARKS_AT_ONCE], cancels.Cancel.TERMINATE)
    return len(batches)
