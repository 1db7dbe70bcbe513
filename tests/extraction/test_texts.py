import pytest

from aegis_workers.errors import InvalidInput
from aegis_workers.extraction import inputs

LIMIT = 10_000_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "must be a string, not NoneType"),
        (b"bytes", "must be a string, not bytes: decode"),
        ("", "empty or blank"),
        (" \n\t\u3000", "empty or blank"),
        ("\ufeff \n", "empty or blank"),
        ("good \ud800 bad", "lone surrogate at offset 5: decode"),
        ("PK\x03\x04\x00", "NUL character at offset 4 and looks binary"),
        ("\x01\x02\x03\x04abc", "mostly control characters"),
        ("\ufffd\ufffdabcdefgh", "mostly control characters"),
        ("x" * (LIMIT + 1), "10,000,001 characters, more than the 10,000,000 bytes of AEGIS_MAX_TEXT_BYTES: split"),
        ("é" * (LIMIT // 2 + 1), "10,000,002 bytes, more than the 10,000,000 bytes of AEGIS_MAX_TEXT_BYTES: split"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_with_cause_and_cure(text: object, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        inputs.check_text(text, max_bytes=LIMIT)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "text", ["a", "!", "\ufeffText", "line\r\n\tnext\f", "שלום", "e\u0301", "👩‍👧", "\x1b[1mbold\x1b[0m", "x" * LIMIT]
)
def test_any_real_text_passes_unchanged(text: str) -> None:
    assert inputs.check_text(text, max_bytes=LIMIT) is text
