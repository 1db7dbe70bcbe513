"""`watch`: a job as it goes, on a terminal or in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import click

from aegis_workers.cli import job_words
from aegis_workers.cli.jobs import job_argument
from aegis_workers.cli.output import plain, span

if TYPE_CHECKING:
    from aegis_workers.jobs.desk import Desk
    from aegis_workers.jobs.journal import State
    from aegis_workers.jobs.view import View

_LOOK_EVERY_S = 0.5
# A log gets a line this often, or sooner where the job's state or what it waits for changes.
_LINE_EVERY_S = 10.0
INTERRUPTED = 130


@click.command()
@job_argument
@click.pass_context
def watch(ctx: click.Context, job: str) -> None:
    """Show how the job ID goes until it has ended. Ctrl-C ends the watching, and not the job.

    Exit status 0 if it completed, 1 if it failed, was cancelled, expired, or stopped early.
    """
    from aegis_workers import settings as settings_module
    from aegis_workers.jobs.desks import open_desk

    with open_desk(settings_module.load()) as desk:
        ctx.exit(follow(desk, desk.resolve(job), sys.stdout))


def follow(desk: "Desk", job_id: str, stream: IO[str]) -> int:
    """Show the job on `stream` until it is at rest, and how it ended; returns the exit status."""
    try:
        with shown(stream) as show:
            while True:
                view = desk.find(job_id)
                show(view)
                if view.is_at_rest:
                    break
                time.sleep(_LOOK_EVERY_S)
    except KeyboardInterrupt:
        click.echo(f"The job goes on. To watch it again: aegis-workers watch {job_id}", err=True)
        return INTERRUPTED
    for line in ending(view):
        click.echo(plain(line), file=stream)
    return 0 if view.state == "completed" else 1


def ending(view: "View") -> Iterator[str]:
    """How a job came to rest, and what can be done with it now."""
    took = span((view.ended_at or view.at) - view.manifest.created_at)
    yield f"{view.state.capitalize()} after {took}: {job_words.statuses(view) or 'no item is done'}."
    if view.state == "stopped":
        yield f"{view.waits}."
        yield f"To go on with it: aegis-workers resume {view.id}"
    if view.failed:
        yield f"To try again what failed: aegis-workers retry {view.id}"
    if view.done:
        yield f"Results: aegis-workers results {view.id}"


@contextmanager
def shown(stream: IO[str]) -> Iterator[Callable[["View"], None]]:
    """How each look is shown: in place on a terminal, else as lines."""
    if not stream.isatty():
        yield _Log(stream).show
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream, markup=False, highlight=False, emoji=False)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda view: live.update(_picture(view), refresh=True)


class _Log:
    """Lines for what is no terminal."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._said: tuple[State, str | None] | None = None
        self._said_at = float("-inf")

    def show(self, view: "View") -> None:
        """A line, unless the last one says as much."""
        news, now = (view.state, view.waits), time.monotonic()
        if news != self._said or now - self._said_at >= _LINE_EVERY_S:
            self._said, self._said_at = news, now
            click.echo(plain(", ".join(_words(view))), file=self._stream)


def _words(view: "View") -> Iterator[str]:
    yield f"{view.state}: {view.done:,} of {view.manifest.items:,} done"
    yield f"{view.failed:,} failed"
    if rates := job_words.speed(view):
        yield rates
    if view.totals.calls:
        yield job_words.split(view.totals.calls)
    if view.waits and not view.is_at_rest:
        yield f"waits: {view.waits}"


def _picture(view: "View") -> Any:
    """Two or three lines: a bar, what is behind it, and what is in its way."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    total = view.manifest.items
    bar = Table.grid(padding=(0, 2), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    bar.add_row(ProgressBar(total=total, completed=view.done), Text(f"{view.done:,} of {total:,}  {view.done / total:.0%}"))
    words = [f"{view.failed:,} failed", job_words.speed(view), job_words.split(view.totals.calls) if view.totals.calls else ""]
    state = "" if view.state == "in_progress" else f"{view.state}, "
    lines: list[Any] = [bar, Text(state + ", ".join(word for word in words if word), style="red" if view.failed else "")]
    if view.waits and not view.is_at_rest:
        lines.append(Text(plain(f"Waits: {view.waits}"), style="yellow"))
    return Group(*lines)
