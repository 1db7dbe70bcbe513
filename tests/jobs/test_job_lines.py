"""What an input line may be, and what is said of one that is none."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from submitted import SETTINGS

from aegis_workers.errors import InvalidInput
from aegis_workers.extraction import chunking
from aegis_workers.jobs.lines import Line, LineReader, Record
from aegis_workers.jobs.manifest import Kind

PLANTED = "zanzibar"
MESSAGES = [{"role": "user", "content": PLANTED}]
GOOD = {"custom_id": "a", "text": PLANTED}


def request(**body: Any) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": MESSAGES, **body}}


def asked(content: Any) -> dict[str, Any]:
    return request(messages=[{"role": "user", "content": content}])


def formatted(schema: Any) -> dict[str, Any]:
    return request(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})


def reader() -> LineReader:
    return LineReader(SETTINGS, chunk_tokens=50, chunk_overlap_tokens=10)


def read(record: Record) -> Line:
    return reader().read(record, 3)


def written(fields: Mapping[str, Any]) -> dict[str, Any]:
    line = read(json.dumps(fields).encode())
    assert line.data.endswith(b"\n")
    assert line.data.count(b"\n") == 1
    kept: dict[str, Any] = json.loads(line.data)
    return kept


def test_every_form_of_a_text_gives_the_same_line() -> None:
    lines = [read(record) for record in (json.dumps(GOOD).encode(), GOOD, ("a", PLANTED))]
    assert lines[0] == lines[1] == lines[2]
    assert json.loads(lines[0].data) == GOOD
    assert json.loads(read(PLANTED).data) == {"custom_id": "3", "text": PLANTED}


def test_metadata_comes_back_as_it_was() -> None:
    metadata = {"page": 7, "tags": ["ä", None], "deep": {"x": 1.5}}
    assert written({**GOOD, "metadata": metadata}) == {**GOOD, "metadata": metadata}
    assert written({**GOOD, "metadata": None}) == GOOD


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=600))
def test_the_chunks_of_a_line_are_those_that_its_text_is_cut_into(text: str) -> None:
    try:
        line = read(("a", text))
    except InvalidInput:
        return
    assert line.chunks == len(chunking.split(text, max_tokens=50, overlap_tokens=10))
    assert json.loads(line.data)["text"] == text


def test_a_request_is_kept_in_one_form() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    body = {
        "model": "gpt",
        "messages": [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}],
        "max_completion_tokens": 5,
        "temperature": 0.5,
        "seed": 1,
        "stream": False,
        "n": 1,
        "tools": None,
        "response_format": {"type": "json_object"},
    }
    assert written(request(**body)) == {
        "custom_id": "a",
        "body": {
            "model": "gpt",
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one\ntwo"}],
            "max_tokens": 5,
            "temperature": 0.5,
            "seed": 1,
            "response_format": {"type": "json_object"},
        },
    }


def test_a_schema_of_a_request_is_kept_as_it_is() -> None:
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "string"}}, "required": ["b"]}
    kept = written(formatted(schema))["body"]["response_format"]
    assert kept == {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


REFUSED: Mapping[str, tuple[Any, str]] = {
    "no JSON": (f'{{"custom_id": "a", "text": "{PLANTED}'.encode(), "not JSON (Unterminated string starting at, column 28)"),
    "two objects": (b'{"custom_id": "a"} {}', "not JSON (Extra data"),
    "a list": (b'["zanzibar"]', "the line must be a JSON object, not a list"),
    "a string": (b'"zanzibar"', "the line must be a JSON object, not a string"),
    "a blank line": (b"", "the line is blank: remove it"),
    "latin-1": (b'{"custom_id": "a", "text": "\xe4"}', "not UTF-8 (byte 28): convert the file"),
    "no number": (b'{"custom_id": "a", "text": "x", "metadata": {"a": NaN}}', "not JSON (NaN is no number there)"),
    "a number too large": (b'{"custom_id": "a", "text": "x", "metadata": {"a": 1e999}}', "JSON cannot carry"),
    "a number too long": (b'{"custom_id": "a", "text": ' + b"1" * 5000 + b"}", "a number is too long"),
    "too deep": (b'{"custom_id": "a", "text": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", "nested too deeply"),
    "no id": ({"text": PLANTED}, "custom_id is missing: each item needs one of its own"),
    "an empty id": ({**GOOD, "custom_id": ""}, "custom_id is missing"),
    "a number as id": ({**GOOD, "custom_id": 5}, "custom_id must be a string, not int"),
    "a long id": ({**GOOD, "custom_id": PLANTED * 100}, "custom_id has 800 characters, more than 512"),
    "a surrogate in the id": ({**GOOD, "custom_id": "\ud800"}, "holds a lone surrogate"),
    "no text": ({"custom_id": "a"}, "text is missing"),
    "an empty text": ({**GOOD, "text": ""}, "text is empty or blank"),
    "a large text": ({**GOOD, "text": PLANTED * 20_000}, "more than the 100,000 bytes of AEGIS_MAX_TEXT_BYTES"),
    "a NUL": ({**GOOD, "text": f"{PLANTED}\0"}, "NUL character at offset 8"),
    "an unknown key": ({**GOOD, "texts": PLANTED, "zzz": 1}, "texts, zzz: not known; allowed: custom_id, metadata, text"),
    "a text as key": ({**GOOD, f"{PLANTED} is hot": 1}, "(a key that is no name): not known"),
    "metadata that is text": ({**GOOD, "metadata": PLANTED}, "metadata must be an object, not str"),
    "large metadata": ({**GOOD, "metadata": {"a": PLANTED * 3000}}, "metadata has 24,009 bytes of JSON, more than 16,384"),
    "metadata of Python": ({**GOOD, "metadata": {"a": object()}}, "JSON cannot carry"),
    "a number as item": (5, "an item must be a string, (id, text) or an object, not int"),
    "another url": ({**request(), "url": "/v1/embeddings"}, "url must be /v1/chat/completions: nothing else is served"),
    "another method": ({**request(), "method": "GET"}, "method must be POST"),
    "no body": ({"custom_id": "a", "url": "/v1/chat/completions"}, "body must be an object, not NoneType"),
    "a stream": (request(stream=True), "body.stream: answers of a job cannot be streamed: leave it out"),
    "tools": (request(tools=[{PLANTED: 1}]), "body.tools: not supported; supported: max_completion_tokens, max_tokens, messages"),
    "two choices": (request(n=2), "body.n: Input should be 1"),
    "no messages": (request(messages=[]), "body.messages: List should have at least 1 item"),
    "a role": (request(messages=[{"role": PLANTED, "content": "x"}]), "body.messages[0].role: Input should be 'system'"),
    "a named turn": (request(messages=[{**MESSAGES[0], "name": PLANTED}]), "body.messages[0].name: not supported"),
    "a picture": (asked([{"type": "image_url", "image_url": {}}]), "body.messages[0].content: parts"),
    "an empty content": (asked(""), "at least 1 character"),
    "a surrogate in a content": (asked("\ud800"), "lone surrogate"),
    "a large request": (asked(PLANTED * 20_000), "160,000 bytes of content, more than the 100,000"),
    "a hot temperature": (request(temperature=9), "body.temperature: Input should be less than or equal to 2"),
    "a deadline": (request(deadline_s=5), "body.deadline_s: not supported"),
    "a format": (request(response_format={"type": "xml"}), "body.response_format.type: Input should be 'text'"),
    "a format without schema": (request(response_format={"type": "json_schema"}), "json_schema belongs to the type"),
    "a bad schema": (formatted({"type": "thing"}), "body.response_format.json_schema: schema"),
    "a remote schema": (formatted({"$ref": "https://example.org/s.json"}), "$ref"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said_without_a_word_of_the_text(name: str) -> None:
    record, words = REFUSED[name]
    with pytest.raises(InvalidInput) as refused:
        read(record)
    assert words in str(refused.value)
    assert PLANTED not in str(refused.value)


def test_texts_and_requests_cannot_be_in_one_job() -> None:
    for first, second in ((GOOD, request()), (request(), GOOD)):
        one_job = reader()
        one_job.read(first, 0)
        with pytest.raises(InvalidInput, match="cannot be in one job: submit them apart"):
            one_job.read(second, 1)


def test_a_line_that_is_refused_does_not_say_what_the_job_is() -> None:
    one_job = reader()
    with pytest.raises(InvalidInput):
        one_job.read({**request(), "url": "/v1/embeddings"}, 0)
    one_job.read(GOOD, 1)
    assert one_job.kind is Kind.EXTRACTION
