"""Where Celery keeps the results of tasks: in Redis under Celery's own keys, written in one step."""

from typing import Any

from celery import states
from celery.backends.redis import RedisBackend

from aegis_workers.state import scripts


class Results(RedisBackend):
    """Celery's Redis results, where a success is final.

    Celery reads the state, then writes: of two deliveries of a task that end together the failure could replace the success. One
    script decides, and costs half of their round trips.
    """

    def _store_result(self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **_: Any) -> Any:
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        value = self.encode({**meta, "task_id": task_id})
        expires_s = self.failure_expires if state == states.FAILURE else self.expires
        self.ensure(self._store, (self.get_key_for_task(task_id), value, expires_s))
        return result

    def _store(self, key: bytes, value: str, expires_s: int | None) -> None:
        self.client.eval(scripts.STORE_RESULT, 1, key, value, expires_s or 0)
