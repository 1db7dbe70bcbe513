"""Extraction against gold, as one table: `scripts/gold`. Exit 1 where a trial misses its bounds."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
import gold_documents
import gold_trials
from gold_runs import Finding
from gold_scoring import Match
from gold_trials import Trial
from rich.console import Console
from rich.table import Table

_WIDTH = 200
_COLUMNS = (
    "engine's answers",
    "cut",
    "unseen",
    "entities P R F1",
    "names P R F1",
    "relations P R F1",
    "grounded",
    "let through",
    "verbs, types",
    "astray",
    "chunks by outcome",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A trial, what came of it, and the bounds that it misses, in words."""

    trial: Trial
    finding: Finding
    broken: list[str]


@click.command()
@click.option("--seed", default=1, show_default=True, help="Of the documents.")
@click.option("--documents", default=80, show_default=True, type=click.IntRange(1), help="How many to read in each trial.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(seed: int, documents: int, *, as_json: bool) -> None:
    """Read documents of which everything is known, with engines that answer rightly and wrongly, and score what comes out.

    cut: chunk and overlap in tokens. unseen: mentions and relations that stand whole in no chunk that was answered; the others
    are scored: entities by type and span, names by name and type, relations by ends and verb. let through: invented values
    without a mark. verbs, types: invented ones of entities that the document does name; a mark speaks of names and mentions only.
    astray: chunks and documents that did not end as they had to.
    """
    started = time.monotonic()
    golds = list(gold_documents.documents(seed, documents))
    rows = [_row(trial, trial.run(golds)) for trial in gold_trials.all_of(golds)]
    if as_json:
        click.echo(json.dumps({"seed": seed, "documents": documents, "trials": list(map(_fields, rows))}, indent=2))
    else:
        _print(rows, f"{documents} documents of seed {seed}, {time.monotonic() - started:.0f} s")
    sys.exit(any(row.broken for row in rows))


def _row(trial: Trial, finding: Finding) -> Row:
    return Row(trial=trial, finding=finding, broken=trial.broken(finding))


def _fields(row: Row) -> dict[str, Any]:
    score = row.finding.score
    matches = {"entities": score.entities, "names": score.names, "relations": score.relations}
    return {
        "trial": row.trial.name,
        "chunk_tokens": row.trial.cut.chunk_tokens,
        "overlap_tokens": row.trial.cut.overlap_tokens,
        **{name: {"precision": one.precision, "recall": one.recall, "f1": one.f1} for name, one in matches.items()},
        "grounding_rate": score.grounding_rate,
        "cut_away": score.cut_away,
        "invented_let_through": score.let_through,
        "invented_verbs_and_types": score.unsaid,
        "chunks": dict(row.finding.statuses),
        "said_twice": score.twice,
        "ended_otherwise_than_due": row.finding.astray,
        "dependent_on_order": row.finding.unsteady,
        "broken": row.broken,
    }


def _print(rows: Sequence[Row], title: str) -> None:
    table = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False, header_style="bold")
    for column in _COLUMNS:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row), style="red" if row.broken else "")
    console = Console(width=_WIDTH, highlight=False)
    console.print(table)
    missed = [f"{row.trial.name}, {_cut(row)}: {broken}" for row in rows for broken in row.broken]
    console.print("\n".join(missed) or "all bounds hold", style="red" if missed else "")


def _cells(row: Row) -> list[str]:
    score = row.finding.score
    return [
        row.trial.name,
        _cut(row),
        str(score.cut_away),
        *map(_shares, (score.entities, score.names, score.relations)),
        f"{score.grounding_rate:.3f}",
        str(score.let_through),
        str(score.unsaid),
        str(row.finding.astray),
        ", ".join(f"{count} {status}" for status, count in sorted(row.finding.statuses.items())),
    ]


def _cut(row: Row) -> str:
    return f"{row.trial.cut.chunk_tokens}/{row.trial.cut.overlap_tokens}"


def _shares(match: Match) -> str:
    return f"{match.precision:.3f} {match.recall:.3f} {match.f1:.3f}"


if __name__ == "__main__":
    main()
