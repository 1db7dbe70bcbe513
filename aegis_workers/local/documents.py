"""Text files as documents, or a clear word about each file that is none."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aegis_workers.errors import InvalidInput
from aegis_workers.extraction import inputs

SAMPLES = Path(__file__).parent / "samples"


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text; `custom_id` names it in results and is unique among the documents read together."""

    custom_id: str
    text: str


def samples() -> list[Path]:
    """The bundled sample texts, by name."""
    return sorted(SAMPLES.glob("*.txt"))


def read(files: Sequence[Path], *, max_bytes: int) -> list[Document]:
    """The documents in `files`, in their order.

    Raises `InvalidInput` with one line for each file that is missing, empty, larger than `max_bytes`, binary or not UTF-8, or
    whose name is not.
    """
    texts: list[str] = []
    problems: list[str] = []
    for file in files:
        try:
            _check_name(file)
            texts.append(_text(file, max_bytes))
        except InvalidInput as problem:
            problems.append(f"{file}: {problem}")
    if problems:
        raise InvalidInput("\n".join(problems))
    return [Document(custom_id=name, text=text) for name, text in zip(_names(files), texts, strict=True)]


def _check_name(file: Path) -> None:
    try:
        file.name.encode()
    except UnicodeEncodeError:
        raise InvalidInput("its name is not UTF-8; rename the file") from None


def _text(file: Path, max_bytes: int) -> str:
    data = _bytes(file, max_bytes)
    if b"\0" in data:
        raise InvalidInput("binary (it has NUL bytes); give a plain text file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"not UTF-8 (byte {error.start}); convert it, for instance with iconv -f latin1 -t utf-8") from None
    return inputs.check_text(text, max_bytes=max_bytes)


def _bytes(file: Path, max_bytes: int) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(max_bytes + 1)
    except OSError as error:
        raise InvalidInput(error.strerror or repr(error)) from None
    if len(data) > max_bytes:
        raise InvalidInput(f"larger than AEGIS_MAX_TEXT_BYTES={max_bytes:,}; split the file, or raise the limit")
    return data


def _names(files: Sequence[Path]) -> list[str]:
    """The file names; with its place in the list where two files have the same name."""
    seen = Counter(file.name for file in files)
    return [f"{number}-{file.name}" if seen[file.name] > 1 else file.name for number, file in enumerate(files, 1)]
