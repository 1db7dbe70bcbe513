"""`jobs` and `status`: what there is, and how it stands."""

from typing import TYPE_CHECKING

import click

from aegis_workers.cli.output import ago, json_option, plain, print_json, print_table

if TYPE_CHECKING:
    from aegis_workers.jobs.view import View

job_argument = click.argument("job", metavar="ID")


@click.command()
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="How many, the newest first.")
@click.option("--after", metavar="ID", help="Those that were submitted before this one.")
@json_option
def jobs(limit: int, after: str | None, *, as_json: bool) -> None:
    """List the jobs, the newest first."""
    from aegis_workers import settings as settings_module
    from aegis_workers.jobs.desks import open_desk
    from aegis_workers.overview import job_rows

    with open_desk(settings_module.load()) as desk:
        page = desk.list(limit, after and desk.resolve(after))
    if as_json:
        print_json({"jobs": [job_rows.values(view) for view in page.jobs], "has_more": page.has_more})
        return
    if not page.jobs:
        click.echo("There are no jobs." if after is None else "There are no older jobs.")
        return
    columns = ("ID", "STATE", "DONE", "FAILED", "SUBMITTED", "NAME")
    print_table(columns, [_row(view) for view in page.jobs], numbers=("DONE", "FAILED"))
    if page.has_more:
        click.echo(f"\nOlder ones: aegis-workers jobs --after {page.jobs[-1].id}", err=True)
    for trouble in dict.fromkeys(view.waits for view in page.jobs if view.waits and not view.is_at_rest):
        click.echo(f"\nWaiting: {plain(trouble)}", err=True)


def _row(view: "View") -> tuple[str, ...]:
    done = f"{view.done:,}/{view.manifest.items:,}"
    return view.id, view.state.value, done, f"{view.failed:,}", ago(view.manifest.created_at), plain(view.name)


@click.command()
@job_argument
@json_option
def status(job: str, *, as_json: bool) -> None:
    """Say how the job ID stands, and why it waits if it does.

    ID is a job's id, its beginning, or the word last for the job that was submitted last.
    """
    from aegis_workers import settings as settings_module
    from aegis_workers.cli import job_words
    from aegis_workers.jobs.desks import open_desk
    from aegis_workers.overview import job_rows

    with open_desk(settings_module.load()) as desk:
        view = desk.find(desk.resolve(job))
    if as_json:
        print_json(job_rows.values(view))
        return
    found = list(job_words.facts(view))
    width = max(len(word) for word, _ in found) + 2
    for word, fact in found:
        click.echo(f"{f'{word}:':<{width}}{plain(fact)}")
