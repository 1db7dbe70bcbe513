"""Where Celery keeps the results of tasks: in Redis under Celery's own keys, written in one step, and once."""

from typing import Any

import structlog
from celery import states
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.exceptions import Reject
from redis.exceptions import RedisError

from aegis_workers.state import connection, keys, scripts
from aegis_workers.worker import holdings, runtime
from aegis_workers.worker.repetition import Repetition

log = structlog.get_logger(__name__)

_AGAIN_AFTER_S = 1.0
# All results of a process wait for the same Redis.
_waiting = Repetition()


class Results(RedisBackend):
    """Celery's Redis results, where the first outcome is final.

    Celery reads the state, then writes: of two deliveries of a task that end together the second would replace the first. One
    script decides, and costs half of their round trips.
    """

    def _store_result(self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **_: Any) -> Any:
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        value = self.encode({**meta, "task_id": task_id})
        expires_s = self.failure_expires if state == states.FAILURE else self.expires
        with structlog.contextvars.bound_contextvars(task=task_id):
            self._store_some_time(self.get_key_for_task(task_id), value, expires_s or 0)
        return result

    def _store_some_time(self, key: bytes, value: str, expires_s: int) -> None:
        """A worker waits for a Redis that does not take the result until it must stop: a call that was paid for is not lost."""
        worker = runtime.started()
        if worker is None:
            self.ensure(self._store, (key, value, expires_s))
            return
        while True:
            try:
                self._store(key, value, expires_s)
            except RedisError as error:
                if not connection.will_pass(error):
                    raise
                if _waiting.is_due():
                    log.warning("result.waits_for_redis", error=type(error).__name__)
            else:
                return
            if worker.stops_within(_AGAIN_AFTER_S):
                raise Reject("the worker stops, and Redis does not take the result", requeue=True)

    def _store(self, key: bytes, value: str, expires_s: int) -> None:
        held = holdings.current()
        worker_id = "" if held is None else held.holder.worker_id
        if self.client.eval(scripts.STORE_RESULT, 2, key, keys.ALIVE, value, expires_s, worker_id) < 0:
            log.warning("result.refused", reason="this worker was declared dead; the task is another's")


class SentinelResults(Results, SentinelBackend):
    """Likewise, on the master that Sentinels name."""
