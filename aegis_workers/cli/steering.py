"""`retry`, `cancel`, `resume` and `delete`: what can be done to a job."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from aegis_workers.cli.jobs import job_argument
from aegis_workers.cli.output import json_option, plain, print_json

if TYPE_CHECKING:
    from aegis_workers.jobs.desk import Desk


@click.command()
@job_argument
@click.option("--key", help="Makes it idempotent: the same KEY twice is the same retry.")
@json_option
def retry(job: str, key: str | None, *, as_json: bool) -> None:
    """Submit what did not end ok or empty in the job ID as a new job, and print its id.

    The results of ID then show each item's latest line. ID must have ended, or have stopped early.
    """
    with _asked(job) as (desk, job_id):
        child = desk.find(desk.retry(job_id, key=key))
    if as_json:
        print_json({"id": child.id, "retry_of": job_id, "items": child.manifest.items})
    else:
        click.echo(child.id)
        click.echo(f"{child.manifest.items:,} items of {job_id} are tried again: aegis-workers watch {child.id}", err=True)


@click.command()
@job_argument
@json_option
def cancel(job: str, *, as_json: bool) -> None:
    """Cancel the job ID: calls in flight are closed at the engine, lines that are there stay."""
    with _asked(job) as (desk, job_id):
        view = desk.cancel(job_id)
    if as_json:
        print_json({"id": job_id, "state": view.state.value})
    elif view.state.is_terminal:
        click.echo(f"{job_id} is {view.state}.")
    else:
        why = f" ({view.waits})" if view.waits else ""
        click.echo(plain(f"{job_id} is {view.state}{why}."))


@click.command()
@job_argument
@json_option
def resume(job: str, *, as_json: bool) -> None:
    """Go on with the job ID, which was stopped because too many of its items failed."""
    with _asked(job) as (desk, job_id):
        view = desk.resume(job_id)
    if as_json:
        print_json({"id": job_id, "state": view.state.value})
    else:
        click.echo(f"{job_id} goes on.")


@click.command()
@job_argument
@json_option
def delete(job: str, *, as_json: bool) -> None:
    """Delete the job ID, which has ended, with its inputs and results."""
    with _asked(job) as (desk, job_id):
        desk.delete(job_id)
    if as_json:
        print_json({"id": job_id, "deleted": True})
    else:
        click.echo(f"Deleted {job_id}.")


@contextmanager
def _asked(word: str) -> Iterator[tuple["Desk", str]]:
    """The desk, and the id of the job that `word` stands for."""
    from aegis_workers import settings as settings_module
    from aegis_workers.jobs.desks import open_desk

    with open_desk(settings_module.load()) as desk:
        yield desk, desk.resolve(word)
