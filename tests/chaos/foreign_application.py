"""Another Celery application on the same Redis, with tasks that take long; each start and each end of one is counted there."""

import os
import time

import redis
from celery import Celery

STARTS, ENDS = "foreign:starts", "foreign:ends"

url = os.environ.get("AEGIS_REDIS_URL", "")
app = Celery("foreign", broker=url, backend=url)
app.conf.task_acks_late = True
app.conf.task_default_queue = "foreign"
app.conf.worker_prefetch_multiplier = 1


@app.task(name="foreign.long")  # type: ignore[untyped-decorator] # Celery ships no types
def long(seconds: float) -> None:
    """Takes so long."""
    with redis.Redis.from_url(url) as client:
        client.incr(STARTS)
        time.sleep(seconds)
        client.incr(ENDS)
