import enum
import http.server
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from aegis_workers.errors import InvalidInput
from aegis_workers.extraction import dialect, schema


class Kind(enum.StrEnum):
    PERSON = "person"


class Person(BaseModel):
    name: str
    kind: Kind
    friends: list["Person"] = []


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def nested(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        inner = of(a=inner)
    return inner


@pytest.fixture
def fetches() -> Iterator[tuple[str, list[str]]]:
    """The address of a server and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "must be a JSON object, not list"),
        ("object", "must be a JSON object, not str"),
        ({"type": "nonsense"}, "must describe an object at its root"),
        ({"type": "array"}, "must describe an object at its root"),
        ({}, "must describe an object at its root"),
        ({"anyOf": [{"type": "object"}]}, "put a list or a choice under a property"),
        ({"$ref": "#"}, "must describe an object at its root"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "must describe an object at its root"),
        (of(a={"type": "nonsense"}), "schema/properties/a/type is not valid JSON Schema"),
        (of(a={"minLength": -1}), "schema/properties/a/minLength is not valid JSON Schema"),
        ({"type": "object", "properties": 5}, "schema/properties is not valid JSON Schema"),
        ({"type": "object", "$schema": "urn:unknown"}, "use a $schema of draft 4 to 2020-12"),
        (of(a={"$ref": "#/$defs/none"}), "schema/properties/a has a $ref to a part that is not there"),
        (of(a={"$ref": "#/properties/a/items/7"}), "has a $ref to a part that is not there"),
        (of(a={"$ref": 7}), "has a $ref that leaves the schema"),
        (of(a={"$ref": "#anchor"}), "write #/$defs/NAME"),
        (of(a={"$ref": "other.json"}), "has a $ref that leaves the schema, and nothing is fetched"),
        (of(a={"$ref": "file:///dev/null"}), "has a $ref that leaves the schema"),
        (of(a={"$id": "http://localhost/", "$ref": "#/x"}), "has an $id of its own"),
        (of(a={"$dynamicRef": "#x"}), "uses $dynamicRef, which vLLM refuses"),
        (of(a={"type": "array", "uniqueItems": True}), "uses uniqueItems, which vLLM refuses: take it out"),
        (of(a={"anyOf": [{"if": {}, "then": {}}]}), "schema/properties/a/anyOf/0 uses if, then, which vLLM refuses"),
        (of(a={"enum": []}), "has an empty enum, which nothing can satisfy"),
        (of(a={"pattern": "(?=x)y"}), "write a regular expression without look-around"),
        (of(a={"pattern": "(unclosed"}), "is no pattern that engines know"),
        (of(a={"const": float("nan")}), "JSON cannot carry"),
        (of(a={"const": object()}), "JSON cannot carry"),
        (of(a={"const": "\ud800"}), "JSON cannot carry"),
        (of(a={"description": "x" * 40_000}), "more than 32,768: ask for less at once"),
        (nested(100), "nested more than 64 levels deep"),
        (nested(3000), "nested too deeply"),
    ],
)
def test_a_schema_that_an_engine_cannot_follow_is_refused_with_cause_and_cure(source: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        schema.compile(source)
    assert message in str(refused.value)


KEYWORDS = st.sampled_from(
    [
        "type",
        "properties",
        "items",
        "$ref",
        "$defs",
        "$id",
        "$schema",
        "$anchor",
        "anyOf",
        "enum",
        "pattern",
        "required",
        "id",
        "a",
    ]
)
VALUES = (
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["object", "#", "#/", "#/$defs/a", "#/a/0", "(", "a", ""])
)
JUNK = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS, inner, max_size=4), max_leaves=20
)


@given(st.dictionaries(KEYWORDS, JUNK, max_size=5), JUNK)
def test_any_object_at_all_is_either_refused_or_checks_answers(source: dict[str, Any], data: Any) -> None:
    try:
        compiled = schema.compile({"type": "object"} | source)
    except InvalidInput:
        return
    broken = compiled.explain({"a": data})
    assert broken is None or broken.startswith("breaks the schema's rule")


def test_a_schema_that_contains_itself_is_refused() -> None:
    endless: dict[str, Any] = of()
    endless["properties"]["a"] = endless
    with pytest.raises(InvalidInput, match=r"JSON cannot carry|nested too deeply"):
        schema.compile(endless)


@pytest.mark.parametrize(
    "trap",
    [
        lambda url: of(a={"$ref": f"{url}/a"}),
        lambda url: of(a={"$id": f"{url}/a", "$ref": "b"}),
        lambda url: {"$id": f"{url}/root", **of(a={"$ref": "b"})},
        lambda url: {"$schema": f"{url}/meta", **of()},
        lambda url: of(a={"$dynamicRef": f"{url}/a"}),
        lambda url: {"$defs": {"$ref": f"{url}/a"}, **of()},
    ],
)
def test_nothing_is_ever_fetched(trap: Any, fetches: tuple[str, list[str]]) -> None:
    url, asked = fetches
    with pytest.raises(InvalidInput):
        dialect.validator(trap(url))
    with pytest.raises(InvalidInput):
        schema.compile(trap(url))
    assert asked == []


@pytest.mark.parametrize(
    "source",
    [
        of(uniqueItems={"type": "string"}),
        of(a={"enum": [{"$ref": "http://localhost/"}]}),
        {"$id": "https://localhost/schema", "$defs": {"b": {"type": "string"}}, **of(a={"$ref": "#/$defs/b"})},
        {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"b": {}}, **of(a={"$ref": "#/definitions/b"})},
        {"$ref": "#/$defs/b", "$defs": {"b": of(a={"type": "array", "items": {"$ref": "#/$defs/b"}})}},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": of()}},
        Person.model_json_schema(),
    ],
)
def test_schemas_that_both_engines_follow_compile(source: dict[str, Any]) -> None:
    compiled = schema.compile(source)
    assert compiled.source == source
    assert not compiled.is_default


def test_no_schema_means_the_default_one_and_so_does_the_default_itself() -> None:
    assert schema.compile(None).is_default
    assert schema.compile(schema.DEFAULT) is schema.compile(None)


def test_equal_schemas_are_compiled_once_and_property_order_counts() -> None:
    assert schema.compile(of(a={}, b={})) is schema.compile(of(a={}, b={}))
    assert schema.compile(of(a={}, b={})) is not schema.compile(of(b={}, a={}))


def test_a_compiled_schema_does_not_follow_later_changes_of_its_source() -> None:
    source = of(a={"type": "string"})
    compiled = schema.compile(source)
    source["properties"]["a"]["type"] = "integer"
    assert compiled.explain({"a": "still a string"}) is None


def test_the_default_uses_only_what_both_engines_take() -> None:
    keywords = {key for _, node in dialect._nodes(schema.DEFAULT, ()) for key in node}
    assert keywords <= {"type", "properties", "required", "additionalProperties", "items", "minimum", "maximum"}


@pytest.mark.parametrize(
    ("data", "place", "rule"),
    [
        ({"name": 7}, "/name", "/properties/name/type"),
        ({"tags": ["ok", "SECRET"]}, "/tags/1", "/properties/tags/items/enum"),
        ({"counts": {"SECRET": "x"}}, "/counts/*", "/properties/counts/additionalProperties/type"),
        ({"SECRET": 1}, "/", "/additionalProperties"),
        ({"either": "SECRET"}, "/either", "/properties/either/anyOf"),
    ],
)
def test_a_broken_rule_is_named_with_its_place_and_without_values(data: Any, place: str, rule: str) -> None:
    compiled = schema.compile(
        of(
            name={"type": "string"},
            tags={"type": "array", "items": {"enum": ["ok"]}},
            counts={"type": "object", "additionalProperties": {"type": "integer"}},
            either={"anyOf": [{"type": "integer"}, {"type": "null"}]},
        )
        | {"additionalProperties": False}
    )
    broken = compiled.explain(data)
    assert broken == f"breaks the schema's rule {rule} at {place}"


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|aa)+$", "(a*)*b", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_a_pattern_that_hangs_other_checkers_takes_linear_time(pattern: str) -> None:
    compiled = schema.compile(of(a={"type": "string", "pattern": pattern}))
    started = time.process_time()
    assert compiled.explain({"a": "a" * 100_000 + "!"}) is not None
    assert time.process_time() - started < 5


def test_a_pydantic_model_travels_as_its_json_schema() -> None:
    assert schema.to_json_schema(Person) == Person.model_json_schema()
    assert schema.to_json_schema({"type": "object"}) == {"type": "object"}
    assert schema.to_json_schema(None) is None
