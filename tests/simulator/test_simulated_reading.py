import json
import re
import time
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.simulator import filling, grammar, reading
from aegis_workers.simulator.answer import Answer, Ask, compose, count_tokens
from aegis_workers.simulator.behaviour import NONE, Behaviour

TEXT = """Marie Curie was born in Warsaw in 1867. In 1903, Curie won the Nobel Prize. She later joined the University of
Paris, where she founded the Radium Institute.

Patients received aspirin. Siemens acquired Mentor Graphics. IBM's Watson runs on POWER7 servers. The contract was signed in
Berlin by Dr. Hans Müller."""

DEFAULT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "entities": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "type": {"type": "string"},
                    "description": {"type": "string"},
                    "confidence": {"type": "number", "minimum": 0, "maximum": 1},
                    "mentions": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                },
                "required": ["name", "type", "description", "confidence", "mentions"],
                "additionalProperties": False,
            },
        },
        "relations": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "source": {"type": "string"},
                    "relation": {"type": "string"},
                    "target": {"type": "string"},
                    "description": {"type": "string"},
                    "strength": {"type": "integer", "minimum": 1, "maximum": 10},
                },
                "required": ["source", "relation", "target", "description", "strength"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["entities", "relations"],
    "additionalProperties": False,
}


def answered(text: str, schema: dict[str, Any] = DEFAULT) -> Any:
    return json.loads(compose(Ask(text=text, max_tokens=100_000, schema=schema), NONE).text)


def test_names_become_entities_with_a_guessed_type() -> None:
    found = {entity["name"]: entity["type"] for entity in reading.read(TEXT)["entities"]}
    assert found == {
        "Marie Curie": "person",
        "Warsaw": "place",
        "Nobel Prize": "concept",
        "University of Paris": "organisation",
        "Radium Institute": "organisation",
        "Siemens": "concept",
        "Mentor Graphics": "concept",
        "IBM": "concept",
        "Watson": "concept",
        "POWER7": "product",
        "Berlin": "place",
        "Dr. Hans Müller": "person",
    }


def test_verbs_between_names_become_relations() -> None:
    found = [(part["source"], part["relation"], part["target"]) for part in reading.read(TEXT)["relations"]]
    assert found == [
        ("Marie Curie", "was born in", "Warsaw"),
        ("Marie Curie", "won", "Nobel Prize"),
        ("Siemens", "acquired", "Mentor Graphics"),
        ("Watson", "runs on", "POWER7"),
    ]


@pytest.mark.parametrize("unit", ["A", "A ", "a", "A\n", "Dr. ", ". ", "Museum of ", "\n", " ", "Ab's ", "Ab. ", "A is of "])
def test_a_long_text_of_any_kind_is_read_in_time_that_grows_with_its_length(unit: str) -> None:
    def cost_s(repeats: int) -> float:
        begun_s = time.process_time()
        reading._read.__wrapped__(unit * repeats)
        return time.process_time() - begun_s

    # Sixteen times the text takes sixteen times as long, not 256 times; the constant leaves room for a busy machine.
    assert cost_s(32_000) < 64 * cost_s(2_000) + 0.5


def test_mentions_are_the_exact_words_of_the_text() -> None:
    mentions = {entity["name"]: entity["mentions"] for entity in reading.read(TEXT)["entities"]}
    assert mentions["University of Paris"] == ["University of\nParis"]
    assert mentions["Marie Curie"] == ["Marie Curie", "Curie"]


@pytest.mark.parametrize("text", ["", "   ", "nothing here has a name.", "The. It. And then?", "12 + 30 = 42", "..."])
def test_a_text_without_names_gives_empty_lists(text: str) -> None:
    assert answered(text) == {"entities": [], "relations": []}


@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.text("ABab .,'\n\u2019&-1", max_size=200))
def test_any_text_is_read_into_the_default_schema_with_words_of_its_own(text: str) -> None:
    answer = answered(f"Read this.\n<text>\n{text}\n</text>")
    jsonschema_rs.validate(DEFAULT, answer)
    assert all(mention in text for entity in answer["entities"] for mention in entity["mentions"])
    names = {entity["name"] for entity in answer["entities"]}
    assert all({relation["source"], relation["target"]} <= names for relation in answer["relations"])


def test_only_the_text_between_the_markers_is_read() -> None:
    message = "Extract what Ada Lovelace wrote.\n<text>\nGrace Hopper met John Mauchly.\n</text>\nAnswer in JSON."
    assert [entity["name"] for entity in answered(message)["entities"]] == ["Grace Hopper", "John Mauchly"]


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"people": {"type": "array", "items": {"type": "string"}}}, "required": ["people"]},
    {"type": "array", "items": {"$ref": "#/$defs/e"}, "$defs": {"e": {"properties": {"title": {"type": "string"}}}}},
    {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 3, "maxItems": 4},
    {"enum": ["yes", "no"]},
    {"const": {"a": 1}},
    {"type": ["string", "null"]},
    {"anyOf": [{"type": "integer", "minimum": 7}, {"type": "null"}]},
    {"allOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"required": ["b"]}]},
    {"type": "object", "required": ["n"], "properties": {"n": {"type": "number", "exclusiveMinimum": 1, "maximum": 1.5}}},
    {"type": "object", "minProperties": 2, "properties": {"a": {"type": "boolean"}, "b": {"format": "date"}}},
    {"type": "object", "required": ["k"], "properties": {"k": {"type": "string", "pattern": "^[a-z]{3,9}$", "minLength": 5}}},
    {"type": "object", "properties": {"node": {"$ref": "#"}, "name": {"type": "string"}}, "required": ["name"]},
    {"type": "object", "required": ["result"], "properties": {"result": DEFAULT}},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": {"type": "boolean"}},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_an_answer_follows_schemas_of_every_kind(schema: dict[str, Any]) -> None:
    for text in (TEXT, "", "nothing"):
        jsonschema_rs.validate(schema, answered(text, schema))


def numbers() -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.tuples(st.integers(-50, 50), st.integers(0, 50))
    return st.builds(
        lambda kind, at: {"type": kind, "minimum": at[0], "maximum": at[0] + at[1]},
        st.sampled_from(["number", "integer"]),
        bounds,
    )


def strings() -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more}, *[st.integers(0, 9)] * 2
    )


LEAVES = (
    numbers()
    | strings()
    | st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}])
    | st.builds(
        lambda values: {"enum": values}, st.lists(st.integers() | st.text(max_size=5), min_size=1, max_size=4, unique=True)
    )
)
NAMES = st.sampled_from(["entities", "name", "type", "mentions", "confidence", "strength", "other", "label", "quote"])


def objects(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(NAMES, parts, max_size=4).flatmap(
        lambda properties: st.builds(
            lambda required, closed: {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": not closed,
            },
            st.lists(st.sampled_from(sorted(properties)), unique=True) if properties else st.just([]),
            st.booleans(),
        )
    )


def arrays(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda items, least, more: {"type": "array", "items": items, "minItems": least, "maxItems": least + more},
        parts,
        st.integers(0, 3),
        st.integers(0, 3),
    )


ANY_SCHEMA = st.recursive(
    LEAVES,
    lambda parts: (
        objects(parts) | arrays(parts) | st.builds(lambda some: {"anyOf": some}, st.lists(parts, min_size=1, max_size=3))
    ),
    max_leaves=12,
)


@given(schema=ANY_SCHEMA)
def test_an_answer_is_valid_for_any_schema_made_of_what_is_understood(schema: dict[str, Any]) -> None:
    jsonschema_rs.validate(schema, filling.fill(schema, reading.read(TEXT)))
    jsonschema_rs.validate(schema, filling.fill(schema))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "nonsense"}, "Invalid type: nonsense"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "Pointer '/$defs/none' does not exist"),
        ({"items": {"enum": []}}, "Unsatisfiable schema: anyOf is empty"),
        ({"anyOf": [{"uniqueItems": True}]}, 'Unimplemented keys: ["uniqueItems"]'),
        (DEFAULT, None),
    ],
)
def test_schemas_that_cannot_be_compiled_are_named(schema: dict[str, Any], words: str | None) -> None:
    assert grammar.find_problem(schema, unimplemented=("uniqueItems",)) == words


@given(text=st.text(max_size=60), thoughts=st.text(max_size=30), tokens=st.integers(0, 30))
def test_an_answer_and_its_pieces_agree_on_their_tokens(text: str, thoughts: str, tokens: int) -> None:
    answer = Answer(text=text, thoughts=thoughts, finish="stop").cut(tokens, "length")
    pieces = list(answer.pieces())
    assert len(pieces) == answer.tokens <= tokens
    assert "".join(piece.text for piece in pieces if not piece.thought) == answer.text
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True] * bool(pieces)


def test_an_answer_is_cut_at_its_limit_and_says_so() -> None:
    answer = compose(Ask(text="Hello there.", max_tokens=3), NONE)
    assert (answer.text, answer.finish, answer.tokens) == ("You said: He", "length", 3)


def test_the_whitespace_loop_runs_to_the_limit() -> None:
    answer = compose(Ask(text=TEXT, max_tokens=50, schema=DEFAULT), Behaviour(whitespace=True))
    assert answer.finish == "length"
    assert answer.tokens == 50
    assert re.fullmatch(r"\{\s+", answer.text)


def test_control_characters_stand_raw_within_a_string() -> None:
    text = compose(Ask(text=TEXT, max_tokens=9000, schema=DEFAULT), Behaviour(control_characters=True)).text
    with pytest.raises(json.JSONDecodeError, match="control character"):
        json.loads(text)
    jsonschema_rs.validate(DEFAULT, json.loads(text, strict=False))


def test_malformed_json_says_that_it_is_complete() -> None:
    answer = compose(Ask(text=TEXT, max_tokens=9000, schema=DEFAULT), Behaviour(malformed_json=True))
    assert answer.finish == "stop"
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.text)


def test_tokens_are_four_characters() -> None:
    assert [count_tokens("x" * length) for length in (0, 1, 4, 5)] == [0, 1, 1, 2]
