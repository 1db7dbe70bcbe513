"""What was extracted, as tables for people: pure rendering of result lines."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from aegis_workers.outcome import Status

MAX_ROWS = 12

_COMPLETE = frozenset({Status.OK, Status.EMPTY})
_COLOURS: Mapping[str, str] = {Status.OK: "green", Status.EMPTY: "yellow", Status.PARTIAL: "yellow"}


def is_complete(line: Mapping[str, Any]) -> bool:
    """Whether the document of this result line was read to its end: its status is `ok` or `empty`."""
    return line.get("status") in _COMPLETE


def document(line: Mapping[str, Any]) -> RenderableType:
    """One result line: a heading, the entities that are mentioned most, and the relations that are strongest."""
    data = line.get("data") or {}
    parts: list[RenderableType] = [_heading(line)]
    if line.get("error"):
        parts.append(_problem(line["error"]))
    if data.get("entities"):
        parts.extend(_shortened(_entities(data["entities"]), len(data["entities"]), "entities"))
    if data.get("relations"):
        parts.extend(_shortened(_relations(data["relations"]), len(data["relations"]), "relations"))
    return Group(*parts)


def summary(lines: Sequence[Mapping[str, Any]], seconds: float) -> str:
    """One sentence over all result lines, with the time that they took together."""
    tokens = sum(_tokens(line) for line in lines)
    statuses = [str(line.get("status")) for line in lines]
    counted = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    noun = "document" if len(lines) == 1 else "documents"
    return f"{len(lines)} {noun} in {seconds:.1f} s: {counted}; {tokens:,} tokens."


def printable(value: object) -> str:
    """`value` on one line without control characters: a document must not be able to steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in str(value))


def _heading(line: Mapping[str, Any]) -> Text:
    status = str(line.get("status"))
    details = [
        status,
        f"engine {line.get('engine') or 'none'}{' (simulator)' if line.get('simulated') else ''}",
        f"mode {line.get('mode') or 'unknown'}",
    ]
    heading = Text(printable(line.get("custom_id")), style="bold")
    heading.append(f"  {printable(' · '.join(details))}", style=f"not bold {_COLOURS.get(status, 'red')}")
    return heading


def _problem(error: Mapping[str, Any]) -> Text:
    return Text(f"  {printable(error.get('class'))}: {printable(error.get('message'))}", style="red")


def _entities(entities: Sequence[Mapping[str, Any]]) -> Table:
    table = _table()
    table.add_column("Entity", overflow="fold", ratio=5)
    table.add_column("Type", overflow="fold", ratio=3)
    table.add_column("Mentions", justify="right", width=10)
    table.add_column("Confidence", justify="right", width=10)
    for entity in sorted(entities, key=lambda entity: -len(entity.get("mentions") or ()))[:MAX_ROWS]:
        table.add_row(
            Text(printable(entity.get("name"))),
            Text(printable(entity.get("type"))),
            _mentions(entity.get("mentions") or ()),
            _number(entity.get("confidence")),
        )
    return table


def _relations(relations: Sequence[Mapping[str, Any]]) -> Table:
    table = _table()
    table.add_column("Source", overflow="fold", ratio=3)
    table.add_column("Relation", overflow="fold", ratio=2)
    table.add_column("Target", overflow="fold", ratio=3)
    for relation in sorted(relations, key=lambda relation: -float(relation.get("strength") or 0))[:MAX_ROWS]:
        table.add_row(
            Text(printable(relation.get("source"))),
            Text(f"{printable(relation.get('relation'))} →"),
            Text(printable(relation.get("target"))),
        )
    return table


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, expand=True, pad_edge=False, show_edge=False, padding=(0, 1), header_style="dim")


def _shortened(table: Table, count: int, noun: str) -> Iterable[RenderableType]:
    yield Text()
    yield table
    if count > MAX_ROWS:
        yield Text(f"… and {count - MAX_ROWS} more {noun} in the JSON result", style="dim")


def _mentions(mentions: Sequence[Mapping[str, Any]]) -> Text:
    grounded = sum(1 for mention in mentions if not mention.get("ungrounded"))
    return Text(str(grounded) if grounded or not mentions else "ungrounded")


def _number(value: object) -> Text:
    return Text(f"{value:.2f}" if isinstance(value, int | float) else "")


def _tokens(line: Mapping[str, Any]) -> int:
    usage = line.get("usage") or {}
    return int(usage.get("prompt_tokens") or 0) + int(usage.get("completion_tokens") or 0)
