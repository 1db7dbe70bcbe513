"""`results`: the result lines of a job, as they are."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from aegis_workers.cli.jobs import job_argument
from aegis_workers.cli.output import plain

if TYPE_CHECKING:
    from aegis_workers.jobs.desk import ResultLine
    from aegis_workers.jobs.view import View


@click.command()
@job_argument
@click.option("--ordered", is_flag=True, help="In the order of the inputs, up to the first item that has no line yet.")
@click.option("--follow", is_flag=True, help="Go on until the job has ended, as lines come.")
@click.option("--offset", metavar="TOKEN", help="Go on after what was read before: the TOKEN that was printed then.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file; with --offset, at its end.")
@click.option("--json", "as_json", is_flag=True, help="Put each line into an object with its status and its offset.")
@click.pass_context
def results(  # noqa: PLR0913 - click's form of options
    ctx: click.Context, job: str, offset: str | None, output: Path | None, *, ordered: bool, follow: bool, as_json: bool
) -> None:
    """Print the results of the job ID as JSON Lines, also while it runs.

    The offset after the last line is said on stderr. Exit status 1 if --follow ends at a job that did not complete.
    """
    from aegis_workers import settings as settings_module
    from aegis_workers.jobs.desks import open_desk

    begun_at = offset
    with open_desk(settings_module.load()) as desk, _written_to(output, append=offset is not None) as file:
        job_id, interrupted = desk.resolve(job), False
        view = desk.find(job_id)
        if follow:
            _say_why(view)
        try:
            for line in desk.lines(job_id, ordered=ordered, follow=follow, offset=offset):
                file.write(_enveloped(line) if as_json else line.body + b"\n")
                offset = line.offset
                if follow:
                    file.flush()
        except KeyboardInterrupt:
            interrupted = True
        file.flush()
        view = desk.find(job_id)
    _say_where(view, offset, is_more=offset != begun_at)
    ctx.exit(130 if interrupted else 1 if follow and view.state != "completed" else 0)


def _enveloped(line: "ResultLine") -> bytes:
    return b'{"offset":"%s","status":"%s","line":%s}\n' % (line.offset.encode(), line.status.encode(), line.body)


@contextmanager
def _written_to(path: Path | None, *, append: bool) -> Iterator[IO[bytes]]:
    if path is None:
        yield sys.stdout.buffer
        return
    try:
        with path.open("ab" if append else "wb") as file:
            yield file
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror or error!r}") from None


def _say_why(view: "View") -> None:
    if view.waits:
        click.echo(plain(f"Waiting: {view.waits}"), err=True)


def _say_where(view: "View", offset: str | None, *, is_more: bool) -> None:
    """On stderr, where it is in nobody's way."""
    with suppress(BrokenPipeError):
        if not view.state.is_terminal:
            click.echo(f"The job is {view.state}: {view.done:,} of {view.manifest.items:,} items are done.", err=True)
            _say_why(view)
        if is_more and offset is not None:
            click.echo(f"To read on from here: --offset {offset}", err=True)
