from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.extraction import parsing, schema

ANYTHING = schema.compile({"type": "object"})
STRICT = schema.compile({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})


def parsed(text: str) -> Any:
    result = parsing.parse(text, ANYTHING)
    assert isinstance(result, parsing.Parsed), result
    return result.data


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('{"a": 1}', {"a": 1}),
        (' \n\ufeff{"a": 1}\n\n', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('```\n{"a": 1}```\n', {"a": 1}),
        ('<think>{"a": 2}? No.</think>\n{"a": 1}', {"a": 1}),
        ('first I think {"a": 2}\n</think>\n\n```json\n{"a": 1}\n```', {"a": 1}),
        ('{"a": "<think></think>"}', {"a": "<think></think>"}),
        ('{"a": "```"}', {"a": "```"}),
        ('{"a": "one\ntwo\x10\tthree"}', {"a": "one\ntwo\x10\tthree"}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        ('{"a": "\\ud800x", "\\udfff": 1}', {"a": "\ufffdx", "\ufffd": 1}),
        ('{"a": "\ud800"}', {"a": "\ufffd"}),
        ('{"a": "\\\\ud800"}', {"a": "\\ud800"}),
        ('{"a": 123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
    ],
)
def test_right_answers_are_read_however_engines_wrap_them(text: str, data: Any) -> None:
    assert parsed(text) == data


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("```json\n```", "is empty"),
        ("<think>hm</think>", "is empty"),
        ("<think>never ends", "is not JSON"),
        ("Here it is: {}", "is not JSON"),
        ('{"a": 1} trailing', "is not JSON: Extra data at character 9 of 17"),
        ('{"a": 1}{"a": 2}', "is not JSON"),
        ('{"a": 1', "is not JSON"),
        ("{'a': 1}", "is not JSON"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": -Infinity}', "-Infinity is no JSON number"),
        ('{"a": 1e999}', "a number is too large"),
        ('{"a": ' + "9" * 5000 + "}", "a number is too large"),
        ('{"a": 1, "a": 2}', "says one key twice"),
        ('{"b": [{"a": 1, "a": 1}]}', "says one key twice"),
        ('{"\\ud800": 1, "\\ud801": 2}', "says one key twice"),
        ("[]", "no object"),
        ("null", "no object"),
        ('"{}"', "no object"),
        ("[" * 100_000, "nested more than 100 levels"),
        ('{"a":' * 100_000, "nested more than 100 levels"),
        ('{"a":' * 200 + "1" + "}" * 200, "nested more than 100 levels"),
    ],
)
def test_anything_else_is_unreadable_and_never_an_empty_success(text: str, problem: str) -> None:
    result = parsing.parse(text, ANYTHING)
    assert isinstance(result, parsing.Unreadable)
    assert problem in result.problem


def test_an_answer_that_breaks_the_schema_is_unreadable_and_says_where() -> None:
    result = parsing.parse('{"a": "SECRET"}', STRICT)
    assert result == parsing.Unreadable(problem="the answer breaks the schema's rule /properties/a/type at /a")


@given(st.text(max_size=50))
def test_problems_hold_nothing_of_the_answer(noise: str) -> None:
    for text in (f'{{"a": "SECRET{noise}', f"SECRET{noise}", f'{{"SECRET": {noise}}}', f'{{"a": "SECRET{noise}"}} x'):
        result = parsing.parse(text, STRICT)
        assert isinstance(result, parsing.Unreadable)
        assert "SECRET" not in result.problem


@given(st.text(st.characters(), max_size=30) | st.text(st.sampled_from('{}[]",:\\ud8003 \n'), max_size=30))
def test_whatever_is_read_can_be_encoded(text: str) -> None:
    result = parsing.parse('{"a": "' + text + '"}', ANYTHING)
    if isinstance(result, parsing.Parsed):
        repr(result.data).encode()
        str(result.data["a"]).encode()
