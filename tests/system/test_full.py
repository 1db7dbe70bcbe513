"""A Redis that takes nothing in: whoever enqueues is told so at once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from installation import Installation, installed

PRODUCER = """
import time
from aegis_workers import chat, chat_stream, extract, extract_batch, generate
from aegis_workers.errors import RedisFull

hello = [{"role": "user", "content": "Hello."}]
ways = (
    lambda: extract.delay("Ada Stone founded Riverton Glass."),
    lambda: extract_batch.delay([{"custom_id": "a", "text": "Ada Stone."}]),
    lambda: chat.delay(hello),
    lambda: generate.delay("Once"),
    lambda: next(chat_stream(hello)),
)
for way in ways:
    began = time.monotonic()
    try:
        way()
    except RedisFull as error:
        assert error.__suppress_context__ and error.__cause__ is None
        print(error)
    assert time.monotonic() - began < 2
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Installation]:
    """An installation without workers, and its Redis is full."""
    with installed(tmp_path) as place:
        place.redis.config_set("maxmemory", 1)
        yield place


def test_every_way_to_enqueue_says_at_once_that_redis_is_full_and_what_to_do(place: Installation) -> None:
    told = place.python(PRODUCER)
    assert told.stderr == ""
    lines = told.stdout.splitlines()
    assert len(lines) == 5
    assert all("is full, nothing was written: let workers empty its queues, then try again" in line for line in lines)
    assert place.redis.dbsize() == 0


def test_the_command_line_says_it_in_one_sentence_and_ends_with_1(place: Installation) -> None:
    told = place.cli("chat", "Hello.")
    assert (told.returncode, told.stdout) == (1, "")
    [line] = told.stderr.splitlines()
    assert line.startswith("Error: Redis at ")
    assert "is full" in line


def test_an_operator_can_still_switch_engines(place: Installation) -> None:
    assert place.cli("mode", "set", "ollama").stdout == "Mode is ollama (was not set).\n"
    assert place.cli("mode", "get").stdout == "ollama\n"


def test_what_was_refused_can_be_enqueued_once_there_is_room(place: Installation) -> None:
    told = place.python("""
import os
import redis
from aegis_workers import extract
from aegis_workers.errors import RedisFull
try:
    extract.delay("Ada Stone.")
except RedisFull:
    redis.Redis.from_url(os.environ["AEGIS_REDIS_URL"]).config_set("maxmemory", 0)
    extract.delay("Ada Stone.")
""")
    assert told.stderr == ""
    assert place.redis.llen("extraction") == 1
