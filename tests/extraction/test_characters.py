import pytest

from aegis_workers.extraction import characters

FAMILY = "👩‍👩‍👧"


@pytest.mark.parametrize(
    "grapheme",
    ["e\u0301", "\r\n", FAMILY, "👍🏽", "🇩🇪", "❤\ufe0f", "각", "\u1100\u1161\u11a8", "กำ"[:1] + "\u0e34", "a\u0323\u0307"],
)
def test_a_grapheme_has_no_break_inside_and_one_at_each_end(grapheme: str) -> None:
    text = f"x{grapheme}x"
    breaks = [index for index in range(len(text) + 1) if characters.is_grapheme_break(text, index)]
    assert breaks == [0, 1, len(text) - 1, len(text)]


def test_two_flags_part_between_the_flags() -> None:
    assert [index for index in range(5) if characters.is_grapheme_break("🇩🇪🇫🇷", index)] == [0, 2, 4]


@pytest.mark.parametrize(
    ("text", "breaks"),
    [
        ("to be", [0, 2, 3, 5]),
        ("C++", [0, 1, 2, 3]),
        ("cafe\u0301s", [0, 6]),
        ("Москва", [0, 6]),
        ("soft\u00adware", [0, 9]),
        ("می\u200cخواهم", [0, 8]),  # noqa: RUF001 - Persian is meant
        ("北京", [0, 1, 2]),
        ("서울은", [0, 1, 2, 3]),
        ("iPhone手机", [0, 6, 7, 8]),
        ("ไทย", [0, 1, 2, 3]),
        ("5kg", [0, 3]),
        ("Ada's", [0, 3, 4, 5]),
    ],
)
def test_words_break_where_readers_of_the_script_part_them(text: str, breaks: list[int]) -> None:
    assert [index for index in range(len(text) + 1) if characters.is_word_break(text, index)] == breaks
