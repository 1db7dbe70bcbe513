"""The README as what a reader meets: fenced blocks with what they are said to print, and tables."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")

# A block, and the block of plain text that follows at once: what the first one prints.
_FENCED = re.compile(r"^```(\w+)\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)

_HEADING = re.compile(r"^#{2,3} (.+)$", re.MULTILINE)

# What differs from run to run and from machine to machine: ports, durations, a Redis of one's own, counts of tests, speeds.
_VOLATILE: Mapping[str, str] = {
    r"^Redis: .*": "Redis: …",
    r"^JSON result: .*": "JSON result: …",
    r"(http://127\.0\.0\.1):\d+": r"\1:PORT",
    r"\b\d+(\.\d+)? (s|min)\b": "TIME",
    r"^[.s]+ *\[ *\d+%\]$": "dots",
    r"^((vLLM|Ollama) ready .*) [\d.]+$": r"\1 SPEED",
}


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block that stands at `line` below a heading; `output` is None where the README does not say what it prints."""

    section: str
    language: str
    text: str
    output: str | None
    line: int


def blocks() -> Iterator[Block]:
    """Every fenced block, in its order; outputs belong to the block before them."""
    for match in _FENCED.finditer(TEXT):
        language, text, output = match.groups()
        section = ["", *_HEADING.findall(TEXT, 0, match.start())][-1]
        yield Block(section=section, language=language, text=text, output=output, line=TEXT.count("\n", 0, match.start()) + 1)


def shows(printed: str, said: str) -> bool:
    """Whether `printed` is what the README says; `…` stands there for anything, on a line of its own for any lines."""
    pattern = "".join(_line_pattern(line) for line in _steady(said))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _steady(printed))) is not None


def table(*columns: str) -> Sequence[Sequence[str]]:
    """The rows of the table with this header, cell by cell."""
    header = re.escape(f"| {' | '.join(columns)} |\n")
    found = re.search(rf"^{header}\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert found, f"the README has no table with the columns {columns}"
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in found[1].splitlines()]


def words(cell: str) -> list[str]:
    """What stands in code quotes."""
    return re.findall(r"`([^`]+)`", cell)


def _steady(text: str) -> list[str]:
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for volatile, word in _VOLATILE.items():
        lines = [re.sub(volatile, word, line) for line in lines]
    return lines


def _line_pattern(line: str) -> str:
    return "(?:.*\n)*?" if line == "…" else f"{re.escape(line).replace('…', '.*')}\n"
