"""Micro-batches as they lie in the queue: what Celery itself would have sent, within bounds."""

import base64
import json
from typing import Any

import pytest
import redis
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.jobs import batches, message
from aegis_workers.jobs.batches import Batch, Contents, Piece
from aegis_workers.settings import Settings
from aegis_workers.state.envelope import ENQUEUED_AT

CONTENTS = Contents(job_id="job_1", arguments={"kind": "extraction", "schema": None, "options": {}, "expires_at": 9.0})
CHUNK = {"n": 3, "item": 2, "of": 1, "text": "Zürich, 東京"}
BATCH = Batch(pieces=[Piece(chunk=3, body=json.dumps(CHUNK, ensure_ascii=False).encode())])


def read(raw: bytes) -> tuple[dict[str, Any], list[Any]]:
    envelope = json.loads(raw)
    return envelope, json.loads(base64.b64decode(envelope["body"]))


def test_a_message_says_what_its_job_says_and_what_its_chunks_are() -> None:
    fed = CONTENTS.to_feed(BATCH, engine="vllm", now=5.0)
    envelope, (args, kwargs, _) = read(fed.message)
    assert (args, kwargs["chunks"]) == ([], [CHUNK])
    assert {name: kwargs[name] for name in ("version", "job", "kind", "engine", "expires_at")} == {
        "version": 1,
        "job": "job_1",
        "kind": "extraction",
        "engine": "vllm",
        "expires_at": 9.0,
    }
    assert envelope["headers"]["id"] == fed.batch_id
    assert fed.batch_id.startswith("job_1.")
    assert envelope["headers"][ENQUEUED_AT] == 5.0
    assert envelope["headers"]["ignore_result"] is True
    assert fed.chunks == [(3, 3)]


def test_a_message_is_what_celery_would_have_sent(settings: Settings) -> None:
    producer = Celery("producer", broker=settings.redis_url)
    kwargs = {"version": 1, "job": "job_1", **CONTENTS.arguments, "engine": None, "chunks": [CHUNK]}
    with redis.Redis.from_url(settings.redis_url) as client:
        options = {"argsrepr": "-", "kwargsrepr": "-", "ignore_result": True, "headers": {ENQUEUED_AT: 5.0}}
        producer.send_task(message.TASK, (), kwargs, queue=message.QUEUE, task_id="id", **options)
        sent, sent_body = read(client.lpop(message.QUEUE))
    producer.close()
    fed, fed_body = read(CONTENTS.to_feed(BATCH, engine=None, now=5.0).message)
    assert fed_body == sent_body
    assert known(fed) == known(sent)


def known(envelope: dict[str, Any]) -> dict[str, Any]:
    """An envelope without what is each message's own, or its sender's."""
    headers = {name: value for name, value in envelope["headers"].items() if name not in {"id", "root_id", "origin"}}
    own = {"correlation_id", "delivery_tag", "reply_to", "argsrepr", "kwargsrepr"}
    properties = {name: value for name, value in envelope["properties"].items() if name not in own}
    properties["delivery_info"] = properties["delivery_info"]["routing_key"]
    return {**envelope, "body": "", "headers": headers, "properties": properties}


def test_half_of_a_surrogate_pair_travels_escaped() -> None:
    body = batches._json({"text": "\ud83d"})
    assert json.loads(body) == {"text": "\ud83d"}


@given(st.lists(st.integers(1, 100_000), max_size=80), st.integers(1, 32))
def test_batches_keep_their_bounds_and_leave_nothing_out(sizes: list[int], most: int) -> None:
    pieces = [Piece(chunk=number, body=b"x" * size) for number, size in enumerate(sizes)]
    packed = list(batches.packed(pieces, max_chunks=most))
    assert [piece for batch in packed for piece in batch.pieces] == pieces
    for batch in packed:
        assert 1 <= len(batch.pieces) <= most
        assert len(batch.pieces) == 1 or sum(len(piece.body) for piece in batch.pieces) <= batches.MAX_BYTES


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=32))
def test_a_batch_takes_no_more_of_the_window_than_it_says(sizes: list[int]) -> None:
    batch = Batch(pieces=[Piece(chunk=number, body=b'"' + b"x" * size + b'"') for number, size in enumerate(sizes)])
    assert len(CONTENTS.to_feed(batch, engine=None, now=5.0).message) <= batch.load.size_bytes


@pytest.mark.parametrize(("window", "chunks"), [(1, 1), (7, 1), (64, 16), (4096, 32)])
def test_a_small_window_holds_several_batches(window: int, chunks: int) -> None:
    assert batches.chunks_in(window) == chunks
