import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aegis_workers.extraction import characters, chunking

ANY_TEXT = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("ab .\n\t。、北京\u0301\u200d👩👧🏽🇩🇪\ud800\udc00אب\u0e34ก\r\u2029\u00a0\x1c"),
    ),
    max_size=200,
)
WORDS = st.lists(st.sampled_from(["a", "Ada", "Lovelace", "北京", "e\u0301te\u0301", "👩‍👧", "שלום", "x" * 40, ".", "\n\n"])).map(
    " ".join
)
GRAPHEMES = st.lists(st.sampled_from(["x", "e\u0301", "👩\u200d👧", "🇩🇪", "각", "กิ"]), min_size=5).map("".join)
TEXTS = ANY_TEXT | WORDS


@given(TEXTS, st.integers(1, 30), st.integers(0, 40))
@example(" \n" * 50, 1, 1)
@example("0:00\r00", 1, 1)
@example("one two" + " " * 60 + "three four", 3, 2)
@example("00000000 0", 1, 0)
@example("e" + "\u0301" * 300, 3, 2)
def test_chunks_are_exact_spans_that_cover_every_visible_character_and_go_forward(
    text: str, max_tokens: int, overlap_tokens: int
) -> None:
    chunks = chunking.split(text, max_tokens=max_tokens, overlap_tokens=overlap_tokens)
    covered = bytearray(len(text))
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text == chunk.text.strip()
        assert chunk.text
        covered[chunk.start : chunk.end] = b"\1" * (chunk.end - chunk.start)
    assert all(covered[index] or character.isspace() for index, character in enumerate(text))
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    for earlier, later in pairwise(chunks):
        assert earlier.start < later.start
        assert earlier.end < later.end


@given(TEXTS, st.integers(1, 30), st.integers(0, 40))
def test_no_chunk_is_larger_than_asked_unless_one_character_is(text: str, max_tokens: int, overlap_tokens: int) -> None:
    for chunk in chunking.split(text, max_tokens=max_tokens, overlap_tokens=overlap_tokens):
        assert chunking.estimate_tokens(chunk.text) <= max_tokens or len(chunk.text) == 1


@given(TEXTS, st.integers(1, 30), st.integers(0, 40))
def test_the_overlap_is_no_larger_than_asked(text: str, max_tokens: int, overlap_tokens: int) -> None:
    chunks = chunking.split(text, max_tokens=max_tokens, overlap_tokens=overlap_tokens)
    for earlier, later in pairwise(chunks):
        shared = text[later.start : earlier.end]
        assert chunking.estimate_tokens(shared) <= min(overlap_tokens, max_tokens // 2 + 1)


@given(GRAPHEMES, st.integers(8, 12), st.integers(0, 4))
def test_no_grapheme_is_torn_where_it_fits_beside_the_overlap(text: str, max_tokens: int, overlap_tokens: int) -> None:
    for chunk in chunking.split(text, max_tokens=max_tokens, overlap_tokens=overlap_tokens):
        assert characters.is_grapheme_break(text, chunk.start)
        assert characters.is_grapheme_break(text, chunk.end)


@given(st.lists(st.sampled_from(["Ada", "Lovelace", "北京", "of", "Incorporated.", "กรุงเทพ"]), min_size=3), st.integers(16, 30))
@example(["Incorporated.", "北京", "กรุงเทพกรุงเทพ"], 16)
def test_what_is_no_longer_than_the_overlap_stands_whole_in_a_chunk(words: list[str], max_tokens: int) -> None:
    text = " ".join(words)
    chunks = chunking.split(text, max_tokens=max_tokens, overlap_tokens=8)
    for phrase in re.finditer(r"(?=(?<!\S)(\S+ \S+)(?!\S))", text):
        start, end = phrase.span(1)
        if chunking.estimate_tokens(phrase[1]) <= 8:
            assert any(chunk.start <= start and end <= chunk.end for chunk in chunks)


@given(ANY_TEXT, ANY_TEXT)
def test_the_estimate_never_falls_as_a_text_grows(text: str, more: str) -> None:
    assert chunking.estimate_tokens(text) <= chunking.estimate_tokens(text + more)
    assert chunking.estimate_tokens(text + more) <= chunking.estimate_tokens(text) + chunking.estimate_tokens(more)


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("word", 1), ("words", 2), ("слов", 2), ("北京", 2), ("ไทย", 3), ("👍", 2)]
)
def test_the_estimate_knows_scripts(text: str, tokens: int) -> None:
    assert chunking.estimate_tokens(text) == tokens


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One two three. Four five.\n\nSix seven.\nEight nine ten eleven.", "One two three. Four five."),
        ("One two three four. Five six seven eight nine", "One two three four."),
        ('He said "one two three." Five six seven eight', 'He said "one two three."'),
        ("one two three four\nfive six seven eight nine", "one two three four"),
        ("one two three four five six seven eight", "one two three four five six"),
        ("x" * 50, "x" * 28),
        ("我们去北京。然后回来。", "我们去北京。"),
        ("他说「去京。」然后回来", "他说「去京。」"),
        ("甲乙丙丁、戊己庚辛壬", "甲乙丙丁、"),
        ("甲乙丙丁戊己Lovelace庚", "甲乙丙丁戊己"),
        ("甲" + "x" * 50, "甲" + "x" * 24),
    ],
)
def test_a_chunk_ends_at_the_best_boundary_in_its_second_half(text: str, first: str) -> None:
    assert chunking.split(text, max_tokens=7, overlap_tokens=0)[0].text == first


def test_a_cut_inside_a_word_is_marked_on_both_sides() -> None:
    first, second = chunking.split("x" * 40, max_tokens=7, overlap_tokens=2)
    assert (first.opens_mid_word, first.closes_mid_word) == (False, True)
    assert (second.opens_mid_word, second.closes_mid_word) == (True, False)


def test_the_next_chunk_begins_earlier_at_a_word() -> None:
    first, second = chunking.split("one two three four five six seven eight", max_tokens=7, overlap_tokens=3)
    assert first.text.endswith("five six")
    assert second.text == "five six seven eight"


def test_a_blank_text_has_no_chunks() -> None:
    assert chunking.split(" \n\u3000\t", max_tokens=10, overlap_tokens=2) == ()


@pytest.mark.parametrize(("max_tokens", "overlap_tokens"), [(0, 0), (5, -1)])
def test_sizes_that_cannot_work_are_refused(max_tokens: int, overlap_tokens: int) -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        chunking.split("text", max_tokens=max_tokens, overlap_tokens=overlap_tokens)


# Each of these made some chunker slow or endless: quadratic searches, deep recursion, no progress.
@pytest.mark.parametrize(
    "text",
    [
        "Ada met Charles in London. " * 370_000,
        "x" * 10_000_000,
        "a" + " " * 10_000_000 + "b",
        "." * 10_000_000,
        "e\u0301" * 2_000_000,
        "我们今天去北京" * 480_000,
        "".join("word " * 40 + "\n" * run for run in range(1500)),
    ],
    ids=["prose", "one word", "spaces", "dots", "marks", "han", "growing gaps"],
)
def test_ten_megabytes_are_cut_in_one_pass(text: str) -> None:
    chunks = chunking.split(text, max_tokens=1500, overlap_tokens=100)
    assert chunks[-1].end == len(text.rstrip())
    assert len(chunks) <= 2 * chunking.estimate_tokens(text) // 1500 + 2
