"""Results of tasks in Redis: what a producer reads, and which of two that come together stays."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Celery
from celery.result import AsyncResult
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from aegis_workers.settings import Settings
from aegis_workers.state import keys
from aegis_workers.worker import holdings
from aegis_workers.worker.results import Results


class Interrupted(Results):
    """Lets something happen in the middle of storing: after what is to be stored is known, before it is written."""

    meanwhile: Callable[[], Any] = staticmethod(lambda: None)

    def encode(self, data: Any) -> Any:
        happening, self.meanwhile = self.meanwhile, lambda: None
        happening()
        return super().encode(data)


@pytest.fixture
def app(settings: Settings) -> Celery:
    return Celery("producer", broker=settings.redis_url, backend=settings.redis_url, set_as_current=False)


@pytest.fixture
def results(app: Celery, settings: Settings) -> Results:
    return Results(app=app, url=settings.redis_url)


def test_a_producer_with_the_plain_backend_gets_the_result(app: Celery, results: Results) -> None:
    results.store_result("one", {"status": "ok"}, "SUCCESS")
    assert AsyncResult("one", app=app).get(timeout=5) == {"status": "ok"}


def test_a_producer_that_waits_is_told(results: Results, client: redis.Redis) -> None:
    with client.pubsub() as listener:  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        listener.subscribe(results.get_key_for_task("one"))
        listener.get_message(timeout=5)
        results.store_result("one", 1, "SUCCESS")
        told = listener.get_message(timeout=5)
    assert told is not None
    assert json.loads(told["data"])["status"] == "SUCCESS"


def test_a_failure_that_comes_at_the_same_time_does_not_replace_a_success(
    app: Celery, settings: Settings, results: Results
) -> None:
    late = Interrupted(app=app, url=settings.redis_url)
    late.meanwhile = lambda: results.store_result("one", {"status": "ok"}, "SUCCESS")
    late.store_result("one", RuntimeError("lost"), "FAILURE")
    assert AsyncResult("one", app=app).get(timeout=5) == {"status": "ok"}


@pytest.mark.parametrize("second", ["SUCCESS", "FAILURE", "REVOKED"])
@pytest.mark.parametrize("first", ["SUCCESS", "FAILURE", "REVOKED"])
def test_the_first_outcome_stays(results: Results, client: redis.Redis, first: str, second: str) -> None:
    for state in (first, second):
        results.store_result("one", {"status": "ok"} if state == "SUCCESS" else RuntimeError("no"), state)
    assert json.loads(str(client.get("celery-task-meta-one")))["status"] == first


@pytest.mark.parametrize("state", ["STARTED", "RETRY"])
def test_what_is_no_outcome_is_replaced(app: Celery, results: Results, state: str) -> None:
    results.store_result("one", RuntimeError("again") if state == "RETRY" else {"pid": 7}, state)
    results.store_result("one", {"status": "ok"}, "SUCCESS")
    assert AsyncResult("one", app=app).get(timeout=5) == {"status": "ok"}


def test_a_worker_that_was_declared_dead_records_nothing_and_says_of_which_task(
    results: Results, settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdings, "_current", None)
    worker = holdings.begin(settings, "chat").holder.worker_id
    client.zadd(keys.ALIVE, {"somebody else": 1})
    with capture_logs(processors=[merge_contextvars]) as logs:
        results.store_result("one", 1, "SUCCESS")
    assert [(line["event"], line["task"]) for line in logs] == [("result.refused", "one")]
    assert client.get("celery-task-meta-one") is None
    client.zadd(keys.ALIVE, {worker: 1})
    results.store_result("one", 1, "SUCCESS")
    assert client.get("celery-task-meta-one") is not None


@pytest.mark.parametrize(("expires_s", "lives_s"), [(600, 600), (None, -1)], ids=["for a time", "for ever"])
def test_a_result_lives_as_long_as_is_configured(
    app: Celery, settings: Settings, client: redis.Redis, expires_s: int | None, lives_s: int
) -> None:
    app.conf.result_expires = expires_s
    results = Results(app=app, url=settings.redis_url)
    results.store_result("one", 1, "SUCCESS")
    assert lives_s - 5 <= int(client.ttl(results.get_key_for_task("one"))) <= lives_s


def test_something_else_under_the_key_is_replaced(app: Celery, results: Results, client: redis.Redis) -> None:
    client.set(results.get_key_for_task("one"), "no JSON")
    results.store_result("one", 1, "SUCCESS")
    assert AsyncResult("one", app=app).get(timeout=5) == 1
