"""Calls in messages that a worker has just taken: it takes no more than it can carry out."""

import json
import uuid
from typing import Any

import pytest
import redis
from fed_jobs import arguments, message, span

from aegis_workers.settings import Settings
from aegis_workers.state import connection
from aegis_workers.state.held import Holder
from aegis_workers.worker.coming import Coming
from aegis_workers.worker.holdings import Holdings


@pytest.mark.parametrize(
    ("headers", "calls"),
    [
        ({"task": "aegis.extract"}, 1),
        ({"task": "aegis.extract_batch"}, 32),
        ({"task": "aegis.read_chunks"}, 32),
        ({"task": "aegis.read_chunks", "aegis_calls": 3}, 3),
        ({"task": "aegis.read_chunks", "aegis_calls": 10_000}, 32),
        ({"task": "aegis.read_chunks", "aegis_calls": -1}, 32),
        ({"task": "aegis.read_chunks", "aegis_calls": "3"}, 32),
        ({"task": "aegis.extract_batch", "eta": "2031-01-01T00:00:00"}, 0),
        ({}, 1),
    ],
)
def test_a_message_counts_as_many_calls_as_it_may_hold(headers: dict[str, Any], calls: int) -> None:
    coming = Coming()
    task_id = coming.taken({"id": "t", **headers})
    assert coming.count == calls
    coming.over(task_id)
    coming.over(task_id)
    assert coming.count == 0


@pytest.mark.parametrize("back", [True, False])
def test_what_a_message_counted_for_is_over_when_the_message_is(client: redis.Redis, settings: Settings, *, back: bool) -> None:
    del client
    holdings = Holdings(connection.open_sync(settings, raw=True), Holder(worker_id="w", queue="extraction"))
    holdings.open()
    raw = message(f"job_1.{uuid.uuid4().hex}", arguments("job_1", [span(0, "text")]))
    holdings.take(raw)
    assert holdings.coming.count == 32
    tag = json.loads(raw)["properties"]["delivery_tag"]
    holdings.let_go(tag) if back else holdings.done(tag)
    assert holdings.coming.count == 0
