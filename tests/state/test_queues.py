import json
import time

import pytest
import redis
import redis.asyncio

from aegis_workers.state import held, queues
from aegis_workers.state.envelope import ENQUEUED_AT
from aegis_workers.state.queues import Ages, Queue

pytestmark = pytest.mark.anyio


def message(tag: str, at: float | None = None, **headers: object) -> str:
    said = headers if at is None else headers | {ENQUEUED_AT: at}
    return json.dumps({"body": "e30=", "headers": said, "properties": {"delivery_tag": tag}})


async def test_every_queue_tells_how_much_waits_and_what_is_next(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    client.rpush("chat", message("late", 20.5), message("next", 10.25))
    client.rpush(f"chat{held.PRIORITY_SEPARATOR}9", message("urgent", 30.0))
    found = [Queue(name="chat", length=3, enqueued_at=10.25, next_tag="next")]
    assert [queue for queue in queues.read_all(client) if queue.length] == found
    assert [queue for queue in await queues.look(async_client) if queue.length] == found


async def test_what_a_caller_wrote_in_a_message_is_not_taken_for_its_age_or_name(client: redis.Redis) -> None:
    forged = f'"{ENQUEUED_AT}": 1.0, "delivery_tag": "forged"'
    client.rpush("chat", message("mine", note=forged))
    [chat] = [queue for queue in queues.read_all(client) if queue.length]
    assert (chat.enqueued_at, chat.next_tag) == (None, "mine")


def test_the_age_of_what_says_none_counts_from_when_it_was_first_seen_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    ages = Ages()
    assert ages.oldest_s(Queue(name="chat", length=1, next_tag="a")) == 0
    now = 1007.0
    assert ages.oldest_s(Queue(name="chat", length=1, next_tag="a")) == 7
    assert ages.oldest_s(Queue(name="chat", length=1, next_tag="b")) == 0
    assert ages.oldest_s(Queue(name="chat", length=1, next_tag="c", enqueued_at=1000.0)) == 7
    assert ages.oldest_s(Queue(name="chat", length=0)) == 0
