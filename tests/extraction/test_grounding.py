from typing import Any

import pytest
from extraction_answers import chunk, entity, relation, spans
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.extraction import characters, folding, grounding
from aegis_workers.extraction.chunking import Chunk

ALPHABET = st.sampled_from("ab AB\n-.é\u0301\u00a0北京ﬁ\u200dאΣß")
TEXT = st.text(st.characters() | ALPHABET, max_size=60)


def ground_one(text: str, name: str, *mentions: str, start: int = 0) -> dict[str, Any]:
    data = {"entities": [entity(name, *mentions)], "relations": []}
    [found] = grounding.ground(data, chunk(text, start=start))["entities"]
    return dict(found)


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("Ada met Ada.", "Ada", ["Ada", "Ada"]),
        ("Adam and Canada, Ada", "Ada", ["Ada"]),
        ("Ada and ADA", "Ada", ["Ada"]),
        ("the ACME works", "Acme", ["ACME"]),
        ("Ada\n  Lovelace", "Ada Lovelace", ["Ada\n  Lovelace"]),
        ("Ada\nLovelace,  Ada Lovelace, Ada \n Lovelace.", "Ada Lovelace", ["Ada\nLovelace", "Ada Lovelace", "Ada \n Lovelace"]),
        ("  Ada Lovelace ", "Ada\tLovelace", ["Ada Lovelace"]),
        ("Ada Lovelace, ADA\nLOVELACE", "Ada Lovelace", ["Ada Lovelace"]),
        ("post\u2013war and", "post-war", ["post\u2013war"]),
        ("\u201cBig\u201d Co", '"Big" Co', ["\u201cBig\u201d Co"]),
        ("cafe\u0301 X", "café X", ["cafe\u0301 X"]),
        ("cafe\u0301", "cafe", []),
        ("cafés", "café", []),
        ("ﬁnance", "finance", ["ﬁnance"]),
        ("ﬁnance", "inance", []),
        ("ﬁ", "F", []),
        ("我在北京大学。", "北京", ["北京"]),
        ("哈哈哈哈", "哈哈", ["哈哈", "哈哈"]),
        ("서울은 크다", "서울", ["서울"]),
        ("C++ and C", "C++", ["C++"]),
        ("Ada's, (Ada) Ada-like", "Ada", ["Ada", "Ada", "Ada"]),
        ("ירושלים היא", "ירושלים", ["ירושלים"]),
        ("👩‍👩‍👧 and 👩", "👩", ["👩"]),
        ("soft\u00adware", "software", ["soft\u00adware"]),
        ("soft\u00adware", "soft", []),
    ],
)
def test_words_are_found_whole_wherever_they_stand(text: str, words: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in spans(ground_one(text, words, words))] == found


def test_spans_are_offsets_into_the_document() -> None:
    assert spans(ground_one("met Ada", "Ada", start=100)) == [(104, 107)]


def test_words_that_stand_nowhere_are_kept_and_marked() -> None:
    found = ground_one("Ada met Charles", "Ada", "Ada", "the Countess")
    assert found["mentions"] == [{"start": 0, "end": 3}, {"text": "the Countess", "ungrounded": True}]
    assert "ungrounded" not in found


def test_an_entity_that_stands_nowhere_is_marked_as_a_whole() -> None:
    assert ground_one("Ada met Charles", "Zorg")["mentions"] == [{"text": "Zorg", "ungrounded": True}]
    assert ground_one("Ada met Charles", "Zorg")["ungrounded"] is True
    assert ground_one("Ada met Charles", "Zorg", "the Zorg")["ungrounded"] is True


def test_a_name_taken_from_elsewhere_is_no_missing_mention() -> None:
    assert ground_one("Lovelace wrote", "Ada Lovelace", "Lovelace")["mentions"] == [{"start": 0, "end": 8}]


def test_a_name_counts_in_another_spelling_only_where_nothing_else_is_found() -> None:
    assert spans(ground_one("AAPL fell; an apple too", "Apple", "AAPL")) == [(0, 4)]
    assert spans(ground_one("an APPLE fell", "Apple", "AAPL")) == [(3, 8)]


@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
def test_what_says_nothing_is_left_out(blank: str) -> None:
    data = {
        "entities": [entity(blank, "Ada"), entity("Ada", blank)],
        "relations": [relation("Ada", "met", blank), relation(blank, "met", "Ada"), relation("Ada", blank, "Bob")],
    }
    found = grounding.ground(data, chunk("Ada"))
    assert [(one["name"], one["mentions"]) for one in found["entities"]] == [("Ada", [{"start": 0, "end": 3}])]
    assert found["relations"] == []


def test_words_at_a_cut_inside_a_word_are_not_whole() -> None:
    cut = Chunk(index=0, start=0, end=7, text="Ada Ada", opens_mid_word=True, closes_mid_word=True)
    assert grounding.Ground(cut).exact("Ada") == []
    assert grounding.Ground(cut).alike("ada") == []


@given(TEXT, st.text(ALPHABET, min_size=1, max_size=6).filter(str.strip))
def test_every_grounded_mention_reads_as_its_words_and_cuts_no_word(text: str, words: str) -> None:
    for start, end in spans(ground_one(text, words, words)):
        assert folding.fold(text[start:end]) == folding.fold(words)
        assert characters.is_word_break(text, start)
        assert characters.is_word_break(text, end)


@given(TEXT, st.data())
def test_words_copied_from_between_word_breaks_are_always_found(text: str, data: st.DataObject) -> None:
    breaks = [index for index in range(len(text) + 1) if characters.is_word_break(text, index)]
    start, end = sorted(data.draw(st.tuples(st.sampled_from(breaks), st.sampled_from(breaks))))
    words = text[start:end].strip()
    if words:
        assert any(text[s:e] == words for s, e in grounding.Ground(chunk(text)).exact(words)) or not is_copied_whole(text, words)


def is_copied_whole(text: str, words: str) -> bool:
    start = text.find(words)
    return characters.is_word_break(text, start) and characters.is_word_break(text, start + len(words))


@given(st.text(st.sampled_from("abc \n.é北"), max_size=60), st.text(st.sampled_from("xyzжש"), min_size=1, max_size=5))
def test_an_invented_name_is_never_grounded(text: str, invented: str) -> None:
    found = ground_one(text, invented, invented)
    assert found["ungrounded"] is True
    assert spans(found) == []


def test_many_entities_on_a_large_chunk_do_not_multiply() -> None:
    text = "Ada met Charles. " * 20_000
    data = {"entities": [entity(f"Zorg {index}", f"zorg-{index}") for index in range(200)], "relations": []}
    assert all(found["ungrounded"] for found in grounding.ground(data, chunk(text))["entities"])
