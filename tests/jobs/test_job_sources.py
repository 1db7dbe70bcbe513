"""Where items come from, and where a person finds the one that is wrong."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from aegis_workers.errors import InvalidInput
from aegis_workers.jobs import sources
from aegis_workers.jobs.lines import Record
from aegis_workers.jobs.sources import Source

LINE = b'{"custom_id": "a", "text": "x"}'


def source(*paths: str, stdin: bytes | None = None, max_text_bytes: int = 1000) -> Source:
    stream = None if stdin is None else io.BytesIO(stdin)
    return sources.of_paths(paths, stdin=stream, max_text_bytes=max_text_bytes)


def found(given: Source) -> tuple[list[Record], list[str]]:
    records = list(given)
    return records, [given.place(number) for number in range(len(records))]


def words(records: Sequence[Record]) -> list[str]:
    return [str(record) for record in records if isinstance(record, InvalidInput)]


def test_lines_of_a_stream_are_counted_from_1() -> None:
    records, places = found(source("-", stdin=b"\xef\xbb\xbf" + LINE + b"\r\n" + LINE))
    assert [json.loads(record)["text"] for record in records if isinstance(record, bytes)] == ["x", "x"]
    assert places == ["line 1", "line 2"]


def test_blank_lines_may_end_a_file_and_are_otherwise_records_of_their_own() -> None:
    assert found(source("-", stdin=LINE + b"\n\n \n"))[1] == ["line 1"]
    records, places = found(source("-", stdin=LINE + b"\n\n\n" + LINE + b"\n"))
    assert (records[1:3], places[3]) == ([b"", b""], "line 4")
    assert list(source("-", stdin=b"")) == []


def test_lines_of_several_files_are_named_by_file(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.jsonl", "b.ndjson")]
    for path in paths:
        Path(path).write_bytes(LINE + b"\n" + LINE + b"\n\n")
    given = source(*paths)
    assert found(given)[1] == [f"{path} line {line}" for path in paths for line in (1, 2)]
    assert given.name == f"{paths[0]} and 1 more"


def test_a_line_that_never_ends_is_not_held_in_memory() -> None:
    endless = b'{"custom_id": "a", "text": "' + b"x" * 500_000
    records, places = found(source("-", stdin=endless + b"\n" + LINE, max_text_bytes=1000))
    assert words(records) == ["longer than 71,536 bytes: split the text, or raise AEGIS_MAX_TEXT_BYTES"]
    assert (records[1], places[1]) == (LINE, "line 2")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    given = source(str(tmp_path / "none.jsonl"))
    records, places = found(given)
    assert words(records) == ["the file cannot be read (No such file or directory)"]
    assert places == ["line 1"]


def test_a_text_file_is_an_item_with_its_path_as_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.md").write_bytes(b"\xef\xbb\xbfone")
    (tmp_path / "latin.txt").write_bytes(b"\xe4")
    (tmp_path / "large.txt").write_bytes(b"x" * 1001)
    records, places = found(source("./notes/a.md", "latin.txt", "large.txt", "none.txt", "notes"))
    assert records[0] == ("notes/a.md", "one")
    assert places == ["./notes/a.md", "latin.txt", "large.txt", "none.txt", "notes"]
    assert [word.partition(" (")[0].partition(":")[0] for word in words(records)] == [
        "not UTF-8",
        "larger than the 1,000 bytes of AEGIS_MAX_TEXT_BYTES",
        "No such file or directory",
        "Is a directory",
    ]


def test_inputs_of_two_kinds_are_refused() -> None:
    with pytest.raises(InvalidInput, match="cannot be in one job: submit them apart"):
        source("a.jsonl", "b.txt")
    with pytest.raises(InvalidInput, match=r"one object a line, in a file that ends in \.jsonl"):
        source("a.json")
    with pytest.raises(InvalidInput, match="- stands for a stream, and there is none here"):
        list(source("-"))
