"""`aside`: what killed what ran it, and is kept apart until somebody looks at it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from aegis_workers.cli.output import ago, json_option, print_json, print_table


@click.group()
def aside() -> None:
    """List, or enqueue again, what was set aside because it seems to kill workers or engines.

    A message that was at work alone when its worker died a third time, or a call that was in flight at three crashes of engines,
    is kept apart from the others.
    """


@aside.command("list")
@json_option
def list_entries(*, as_json: bool) -> None:
    """Show what was set aside, and what it was in flight at. The texts themselves are shown by --json only."""
    from aegis_workers import settings as settings_module
    from aegis_workers.state import aside as store
    from aegis_workers.state import connection

    settings = settings_module.load()
    with connection.explained(settings), connection.open_sync(settings) as client:
        entries = store.read_all(client)
    if as_json:
        print_json([asdict(entry) for entry in entries])
    elif not entries:
        click.echo("Nothing was set aside.")
    else:
        columns = ("ID", "TASK", "CUSTOM ID", "SINCE", "HISTORY")
        print_table(columns, [_row(entry) for entry in entries])


def _row(entry: Any) -> tuple[str, ...]:
    history = "; ".join(str(event["what"]) for event in entry.history)
    return entry.entry_id, entry.task, entry.custom_id or "", ago(entry.at), history


@aside.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="Everything that was set aside.")
def requeue(ids: Sequence[str], *, everything: bool) -> None:
    """Enqueue IDs again, under the same ids: their outcome of before is forgotten.

    What is of a bulk job is recorded there for good: `aegis-workers retry` reads such items again.
    """
    from aegis_workers import app

    if bool(ids) is everything:
        raise click.UsageError("name the IDs, or give --all")
    from aegis_workers import settings as settings_module
    from aegis_workers.state import aside as store
    from aegis_workers.state import connection

    settings = settings_module.load()
    with connection.explained(settings), connection.open_sync(settings) as client:
        known = {entry.entry_id: entry for entry in store.read_all(client)}
        unknown = [entry_id for entry_id in ids if entry_id not in known]
        if unknown:
            raise click.ClickException(f"not set aside: {', '.join(unknown)} (see `aegis-workers aside list`)")
        recorded = {entry_id: entry.job_id for entry_id, entry in known.items() if entry.job_id is not None}
        for entry_id in (entry_id for entry_id in ids if entry_id in recorded):
            raise click.ClickException(_recorded(entry_id, recorded[entry_id]))
        for entry_id in ids or known:
            if entry_id in recorded:
                click.echo(f"Left {_recorded(entry_id, recorded[entry_id])}.")
                continue
            entry = known[entry_id]
            app.backend.forget(entry_id)
            app.send_task(entry.task, kwargs=dict(entry.kwargs), task_id=entry_id, queue=entry.queue)
            store.remove(client, entry_id)
            click.echo(f"Enqueued {entry_id}.")


def _recorded(entry_id: str, job_id: str) -> str:
    return f"{entry_id} is recorded as failed for its job: read it again with `aegis-workers retry {job_id}`"


@aside.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def drop(ids: Sequence[str]) -> None:
    """Forget IDs for good."""
    from aegis_workers import settings as settings_module
    from aegis_workers.state import aside as store
    from aegis_workers.state import connection

    settings = settings_module.load()
    with connection.explained(settings), connection.open_sync(settings) as client:
        for entry_id in ids:
            if not store.remove(client, entry_id):
                raise click.ClickException(f"not set aside: {entry_id} (see `aegis-workers aside list`)")
            click.echo(f"Forgot {entry_id}.")
