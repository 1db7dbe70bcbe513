"""How listings are shown: as a table for people, or as JSON for programs."""

import json
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

import click

# Wider than any row: programs read lines, not pages.
_UNBOUNDED = 10_000

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[str] = ()) -> None:
    """A table that fits the terminal, the last column wrapped; what is no terminal gets each row on one line.

    `numbers` names the columns that are aligned to the right.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=column != columns[-1], overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _UNBOUNDED)
    with console.capture() as shown:
        console.print(table)
    for line in shown.get().splitlines():
        click.echo(line.rstrip())


def ago(epoch_s: float | None) -> str:
    """How long ago that was, in the largest unit that says it."""
    if epoch_s is None:
        return "never"
    return f"{span(max(0.0, time.time() - epoch_s))} ago"


def span(seconds: float) -> str:
    """A length of time in the largest unit that says it."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def plain(text: str) -> str:
    """The text as one line without control characters: what an engine said must not be able to steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
