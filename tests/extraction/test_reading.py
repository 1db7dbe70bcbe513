import pytest
from extraction_answers import DEFAULT, chunk, completion, entity, relation, said

from aegis_workers.completion import Completion, Finish
from aegis_workers.errors import ErrorClass
from aegis_workers.extraction import document, prompt, schema
from aegis_workers.outcome import Status

HERE = chunk("met Ada.", start=10)
OWN = schema.compile({"type": "object", "properties": {"name": {"type": "string"}}})


def test_a_right_answer_is_ok_and_grounded() -> None:
    result = document.read(completion([entity("Ada")]), HERE, DEFAULT)
    assert (result.status, result.problem, result.chunk) == (Status.OK, None, HERE)
    assert result.data
    assert result.data["entities"][0]["mentions"] == [{"start": 14, "end": 17}]


def test_words_copied_from_a_mark_that_was_shown_otherwise_are_the_texts_own() -> None:
    where = chunk("the <|end|> token, and </text>")
    shown = prompt.messages(where.text, DEFAULT, None)[1].content
    copied = [words for words in ("\u2039|end|>", "\u2039/text>") if words in shown]
    result = document.read(completion([entity(words, words) for words in copied]), where, DEFAULT)
    assert result.data
    assert [one["name"] for one in result.data["entities"]] == ["<|end|>", "</text>"]
    assert [one["mentions"] for one in result.data["entities"]] == [[{"start": 4, "end": 11}], [{"start": 23, "end": 30}]]
    own = document.read(said({"name": "the \u2039|end|> token", "more": ["\u2039|end|>"]}), where, OWN)
    assert own.data == {"name": "the <|end|> token", "more": ["<|end|>"]}


def test_a_texts_own_brackets_stay() -> None:
    own = document.read(said({"name": "\u2039|end|>"}), chunk("the \u2039|end|> token"), OWN)
    assert own.data == {"name": "\u2039|end|>"}


def test_white_space_in_what_relates_two_entities_is_single() -> None:
    result = document.read(completion([entity("Ada")], [relation(" Ada", "works\n for", "Ada\x0b")]), HERE, DEFAULT)
    assert result.data
    [found] = result.data["relations"]
    assert (found["source"], found["relation"], found["target"]) == ("Ada", "works for", "Ada")


@pytest.mark.parametrize("answer", [completion(), completion([entity(" ")], [relation("", "", "")])])
def test_an_answer_without_anything_is_empty(answer: Completion) -> None:
    assert document.read(answer, HERE, DEFAULT).status is Status.EMPTY


def test_a_cut_answer_is_truncated_even_where_it_happens_to_be_json() -> None:
    answer = Completion(text=completion([entity("Ada")]).text + "   ", finish=Finish.LENGTH)
    result = document.read(answer, HERE, DEFAULT)
    assert (result.status, result.data) == (Status.TRUNCATED, None)
    assert result.problem
    assert result.problem.error_class == ErrorClass.CONTENT
    assert "raise max_tokens" in result.problem.message


@pytest.mark.parametrize("text", ["", "SECRET", '{"entities": []}', '{"entities": ["SECRET"], "relations": []}'])
def test_an_unreadable_answer_is_invalid_and_is_not_quoted(text: str) -> None:
    result = document.read(Completion(text=text, finish=Finish.STOP), HERE, DEFAULT)
    assert (result.status, result.data) == (Status.INVALID, None)
    assert result.problem
    assert result.problem.error_class == ErrorClass.CONTENT
    assert "SECRET" not in result.problem.message


def test_a_callers_data_comes_back_as_the_engine_gave_it() -> None:
    result = document.read(Completion(text='{"name": "Zorg", "more": [1]}', finish=Finish.STOP), HERE, OWN)
    assert (result.status, result.data) == (Status.OK, {"name": "Zorg", "more": [1]})
