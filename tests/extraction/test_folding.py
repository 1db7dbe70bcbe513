import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.extraction import folding

TEXT = st.text(
    st.characters() | st.sampled_from("aB é\u0301\u0323ﬁ①\uff21½İß\u2013“ \n\u00a0\u200b\u1100\u1161각ก\u0e34👩\u200d"),
    max_size=40,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ada  Lovelace", "ADA\n\tLOVELACE"),
        ("café", "cafe\u0301"),
        ("a\u0323\u0307", "a\u0307\u0323"),
        ("Straße", "STRASSE"),
        ("\uff21\uff22\uff11", "ab1"),
        ("ﬁnance", "finance"),
        ("post\u2010war", "post-war"),
        ("\u201cX\u201d", '"X"'),
        ("O\u2019Neil", "O'Neil"),
        ("soft\u00adware", "software"),
        (" padded\u3000", "padded"),
        ("ΣΑΣ", "σας"),
        ("각", "\u1100\u1161\u11a8"),
    ],
)
def test_spellings_of_the_same_words_fold_to_one_form(one: str, other: str) -> None:
    assert folding.fold(one) == folding.fold(other)


@pytest.mark.parametrize(("one", "other"), [("Ada", "Adam"), ("cafe", "café"), ("a b", "ab"), ("Ada.", "Ada"), ("1", "2")])
def test_different_words_stay_different(one: str, other: str) -> None:
    assert folding.fold(one) != folding.fold(other)


@given(TEXT)
def test_folding_twice_changes_nothing(text: str) -> None:
    assert folding.fold(folding.fold(text)) == folding.fold(text)


@given(TEXT)
def test_offsets_lead_back_to_what_was_folded_in_order(text: str) -> None:
    folded = folding.fold_with_offsets(text)
    assert len(folded.text) == len(folded.starts) == len(folded.ends)
    assert folded.starts == sorted(folded.starts)
    for index, (start, end) in enumerate(zip(folded.starts, folded.ends, strict=True)):
        assert 0 <= start < end <= len(text)
        assert folded.text[index] in folding.fold_with_offsets(text[start:end]).text


@given(st.lists(st.sampled_from(["Ada", "ÉTÉ", "Straße", "北京", "x", "ﬁn"]), min_size=1).map(" ".join))
def test_case_and_composition_never_matter(text: str) -> None:
    forms = {folding.fold(form) for form in (text, text.upper(), unicodedata.normalize("NFD", text), f" {text}\n")}
    assert len(forms) == 1
