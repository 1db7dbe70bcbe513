"""Whole installations whose engine is a real vLLM."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from asking import MESSAGES
from installation import Installation, eventually, installed
from serving import Server

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["person", "place", "thing"]},
        "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "marks": {"type": "array", "items": {"enum": ["new", "old"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["kind", "code", "count", "marks"],
    "additionalProperties": False,
}
LONG: dict[str, Any] = {"max_tokens": 7900, "temperature": 0.0}
READER = """
import json, sys
from aegis_workers import chat_stream
messages, options, last = json.loads(sys.argv[1])
pieces = chat_stream(messages, options)
for number, piece in enumerate(pieces):
    print(json.dumps(piece))
    if number == last:
        pieces.close()
        break
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, real: dict[str, Any]) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("place"), "extraction", "chat", **real) as place:
        yield place


def read(place: Installation, options: dict[str, Any], *, last: int = -1) -> list[str]:
    """The pieces of a streamed chat, to the one numbered `last`, as another process gets them."""
    done = place.python(READER, json.dumps([MESSAGES, options, last]))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_random_weights_extract_what_follows_the_schema(place: Installation) -> None:
    results = [place.send("aegis.extract", text=f"Ada Stone met Bo Hill in town {n}.", schema=SCHEMA) for n in range(40)]
    for result in results:
        outcome = result.get(timeout=60)
        assert (outcome["status"], outcome["engine"], outcome["attempts"]) == ("ok", "vllm", 1)
        jsonschema_rs.validate(SCHEMA, outcome["data"])
        assert outcome["usage"]["completion_tokens"] > 0


def test_a_batch_has_a_line_for_each_of_its_texts(place: Installation) -> None:
    items = [{"custom_id": f"text-{n}", "text": f"Ada Stone met Bo Hill in town {n}."} for n in range(32)]
    lines = place.send("aegis.extract_batch", items=items, schema=SCHEMA).get(timeout=60)["results"]
    assert [line["custom_id"] for line in lines] == [item["custom_id"] for item in items]
    assert {line["status"] for line in lines} == {"ok"}
    for line in lines:
        jsonschema_rs.validate(SCHEMA, line["data"])


def test_a_streamed_chat_gives_the_pieces_of_the_whole_answer(place: Installation) -> None:
    options = {"max_tokens": 300, "temperature": 0.0}
    pieces = read(place, options)
    whole = place.send("aegis.chat", messages=MESSAGES, options=options).get(timeout=60)
    assert len(pieces) > 1
    assert "".join(pieces) == whole["text"]
    assert (whole["finish"], whole["usage"]["completion_tokens"]) == ("length", 300)


def test_a_chat_that_is_no_longer_read_leaves_nothing_running(place: Installation, server: Server) -> None:
    before = server.count("vllm:generation_tokens_total")
    assert len(read(place, LONG, last=0)) == 1
    eventually(lambda: server.in_flight() == 0)
    assert 0 < server.count("vllm:generation_tokens_total") - before < LONG["max_tokens"]


def test_a_chat_beyond_its_deadline_leaves_nothing_running(place: Installation, server: Server) -> None:
    result = place.send("aegis.chat", messages=MESSAGES, options={**LONG, "deadline_s": 4.0})
    eventually(lambda: server.in_flight() == 1)
    assert type(result.get(timeout=20, propagate=False)).__name__ == "DeadlineExceeded"
    eventually(lambda: server.in_flight() == 0)


def test_a_prompt_that_is_too_long_fails_at_once_and_says_so(place: Installation) -> None:
    result = place.send("aegis.chat", messages=[{"role": "user", "content": "a word " * 3000}])
    error = result.get(timeout=20, propagate=False)
    assert type(error).__name__ == "CallFailed"
    assert "maximum context length is 8192 tokens" in str(error)


def test_no_text_is_in_the_logs(place: Installation) -> None:
    assert "Ada Stone" not in place.worker_logs()
