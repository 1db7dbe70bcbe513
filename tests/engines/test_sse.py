import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.engines.sse import Parser

DATA = st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=5)


def events(*pieces: bytes) -> list[str]:
    parser = Parser()
    return [data for piece in pieces for data in parser.feed(piece)]


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"data: a\n\n", ["a"]),
        (b"data:a\n\n", ["a"]),
        (b"data:  a\n\n", [" a"]),
        (b"data: a\r\n\r\n", ["a"]),
        (b"data: a\r\r", []),
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b": keep-alive\n\ndata: a\n\n", ["a"]),
        (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", ["a"]),
        (b"\n\n\n", []),
        (b"data: a", []),
        (b"data: a\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b'data: {"x": "a: b"}\n\n', ['{"x": "a: b"}']),
    ],
)
def test_events_are_read_as_the_standard_says(sent: bytes, read: list[str]) -> None:
    assert events(sent) == read


def test_a_carriage_return_ends_an_event_once_it_is_known_that_no_newline_follows() -> None:
    assert events(b"data: a\r\r", b"data: b\r\r") == ["a"]


def test_a_character_cut_in_two_is_put_together() -> None:
    assert events(b"data: caf\xc3", b"\xa9\n\n") == ["café"]


def test_a_line_separator_within_data_ends_no_line() -> None:
    assert events("data: a\u2028b\u0085c\n\n".encode()) == ["a\u2028b\u0085c"]


@given(DATA, st.sampled_from(["\n", "\r\n"]), st.data())
def test_how_a_stream_is_cut_into_pieces_changes_nothing(texts: list[str], newline: str, data: st.DataObject) -> None:
    stream = "".join(f"data: {json.dumps(text, ensure_ascii=False)}{newline}{newline}" for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [json.loads(event) for event in events(*pieces)] == texts
