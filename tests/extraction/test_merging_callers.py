import copy
from typing import Any

import pytest
from extraction_answers import chunk, said
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.extraction import document, merging, schema
from aegis_workers.extraction.merging import ChunkResult
from aegis_workers.outcome import Status

ANYTHING = schema.compile({"type": "object"})
AT_MOST_TWO = schema.compile({"type": "object", "properties": {"tags": {"type": "array", "maxItems": 2}}})


def answers(*data: Any) -> list[ChunkResult]:
    return [document.read(said(one), chunk("text", index=index, start=index * 4), ANYTHING) for index, one in enumerate(data)]


def merged(*data: Any) -> Any:
    return merging.merge(answers(*data), ANYTHING).data


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": None}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"a": 2}, {"a": 1}),
        ({"a": False}, {"a": True}, {"a": False}),
        ({"a": ""}, {"a": "x"}, {"a": ""}),
        ({"a": [1, 2]}, {"a": [2, 3]}, {"a": [1, 2, 3]}),
        ({"a": [1, 1]}, {"a": [1]}, {"a": [1, 1]}),
        ({"a": [1]}, {"a": [True, 1.0]}, {"a": [1, True, 1.0]}),
        ({"a": [{"x": 1, "y": 2}]}, {"a": [{"y": 2, "x": 1}]}, {"a": [{"x": 1, "y": 2}]}),
        ({"a": {"b": [1], "c": None}}, {"a": {"b": [2], "c": 3}}, {"a": {"b": [1, 2], "c": 3}}),
        ({"a": [1]}, {"a": "x"}, {"a": [1]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": {"b": 1}}),
    ],
)
def test_objects_merge_arrays_join_and_the_first_value_stays(one: Any, other: Any, both: Any) -> None:
    assert merged(one, other) == both


def test_the_answer_of_a_single_chunk_passes_unchanged() -> None:
    data = {"a": [1, 1, {"b": None}], "c": ""}
    assert merged(data) == data


def test_data_that_breaks_the_schema_once_merged_is_invalid_and_says_what_to_do() -> None:
    outcome = merging.merge(answers({"tags": [1, 2]}, {"tags": [3]}), AT_MOST_TWO)
    assert (outcome.status, outcome.data) == (Status.INVALID, None)
    assert outcome.problem
    assert (
        "2 chunks answered rightly, but their merged data breaks the schema's rule /properties/tags/maxItems"
        in outcome.problem.message
    )
    assert "raise AEGIS_CHUNK_TOKENS" in outcome.problem.message


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ({}, Status.EMPTY),
        ({"a": None, "b": "", "c": " ", "d": [], "e": {"f": []}, "g": [None, ""]}, Status.EMPTY),
        ({"a": 0}, Status.OK),
        ({"a": False}, Status.OK),
        ({"a": ["x"]}, Status.OK),
    ],
)
def test_data_that_says_nothing_is_empty(data: Any, status: Status) -> None:
    assert [result.status for result in answers(data)] == [status]
    assert merging.merge(answers(data, data), ANYTHING).status is status


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "a", "b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


@given(st.lists(OBJECTS, max_size=4).flatmap(lambda data: st.tuples(st.just(data), st.permutations(range(len(data))))))
def test_the_order_in_which_chunks_end_does_not_matter(drawn: tuple[list[Any], list[int]]) -> None:
    data, order = drawn
    results = answers(*data)
    assert merging.merge([results[index] for index in order], ANYTHING) == merging.merge(results, ANYTHING)


@given(OBJECTS)
def test_the_same_answer_twice_is_the_answer(data: Any) -> None:
    before = copy.deepcopy(data)
    once = merging._merged_objects([data])
    assert merging._merged_objects([data, data]) == once
    assert merging._merged_objects([once, once]) == once
    assert data == before
