"""The envelope of a micro-batch: Celery and kombu make one, and each message is a copy with a name and contents of its own."""

import base64
import json
import uuid
from functools import cache
from typing import Any, Final

from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer

from aegis_workers.state.envelope import ENQUEUED_AT

TASK: Final = "aegis.read_chunks"
QUEUE: Final = "extraction"

_HIDDEN: Final = "-"


def enveloped(batch_id: str, body: bytes, now: float) -> bytes:
    """The message of task `batch_id` as it lies in the queue; `body` is that of a Celery message, `now` epoch seconds."""
    envelope = _envelope()
    headers = envelope["headers"] | {"id": batch_id, "root_id": batch_id, ENQUEUED_AT: now}
    properties = envelope["properties"] | {"correlation_id": batch_id, "delivery_tag": str(uuid.uuid4())}
    changed = {"body": base64.b64encode(body).decode(), "headers": headers, "properties": properties}
    return json.dumps(envelope | changed).encode()


@cache
def _envelope() -> dict[str, Any]:
    """One message for `QUEUE` as Celery and kombu write it into Redis, but for its names and contents."""
    message = Celery(set_as_current=False).amqp.as_task_v2(
        "", TASK, (), {}, argsrepr=_HIDDEN, kwargsrepr=_HIDDEN, ignore_result=True
    )
    queue = Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE)
    with Connection("memory://") as connection:
        channel = connection.channel()
        bound = queue(channel)
        bound.declare()
        producer = Producer(channel, exchange=queue.exchange, routing_key=QUEUE, serializer="json")
        producer.publish(message.body, headers=message.headers, **message.properties)
        envelope: dict[str, Any] = channel._get(QUEUE)  # noqa: SLF001 - as it would lie in Redis; `get` gives what is left of it
        bound.delete()
    return envelope
