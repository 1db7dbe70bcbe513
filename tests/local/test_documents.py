import os
from pathlib import Path

import pytest

from aegis_workers.errors import InvalidInput
from aegis_workers.extraction import chunking
from aegis_workers.local import documents
from aegis_workers.settings import Settings

MAX_BYTES = 1000


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"PK\x03\x04\x00\x00", "binary"),
        ("text".encode("utf-16"), "binary"),
        (b"\x01\x02\x03\x04ustar\x05\x06\x07", "binary"),
        ("Žluťoučký".encode("latin2"), "not UTF-8 (byte 0)"),
        (b"x" * (MAX_BYTES + 1), "AEGIS_MAX_TEXT_BYTES=1,000"),
    ],
)
def test_a_file_without_usable_text_is_refused_with_the_reason(tmp_path: Path, data: bytes, word: str) -> None:
    path = written(tmp_path, "a.txt", data)
    with pytest.raises(InvalidInput) as caught:
        documents.read([path], max_bytes=MAX_BYTES)
    assert str(path) in str(caught.value)
    assert word in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"(?s)none.txt: No such file.*Is a directory"):
        documents.read([tmp_path / "none.txt", tmp_path], max_bytes=1_000_000)


def test_every_bad_file_is_named_at_once(tmp_path: Path) -> None:
    good = written(tmp_path, "good.txt", b"text")
    bad = [written(tmp_path, "empty.txt", b""), written(tmp_path, "binary.txt", b"\0")]
    with pytest.raises(InvalidInput) as caught:
        documents.read([good, *bad], max_bytes=MAX_BYTES)
    assert len(str(caught.value).splitlines()) == 2


def test_a_name_that_no_result_could_carry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"its name is not UTF-8"):
        documents.read([written(tmp_path, os.fsdecode(b"caf\xe9.txt"), b"text")], max_bytes=MAX_BYTES)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    [document] = documents.read([written(tmp_path, "a.txt", "\ufeffÅse".encode())], max_bytes=MAX_BYTES)
    assert document.text == "Åse"


def test_files_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    files = [written(tmp_path, name, b"text") for name in ("a/x.txt", "b/x.txt", "b/y.txt")]
    names = [document.custom_id for document in documents.read([*files, files[0]], max_bytes=MAX_BYTES)]
    assert names == ["1-x.txt", "2-x.txt", "y.txt", "4-x.txt"]


def test_the_samples_can_be_read_and_one_of_them_needs_several_chunks() -> None:
    settings = Settings()
    read = documents.read(documents.samples(), max_bytes=settings.max_text_bytes)
    chunks = [
        chunking.split(document.text, max_tokens=settings.chunk_tokens, overlap_tokens=settings.chunk_overlap_tokens)
        for document in read
    ]
    assert len(read) == 4
    assert max(map(len, chunks)) >= 2
    assert not any(document.text.isascii() for document in read)
