"""`mode set --dry-run`: what a switch would do, without doing it."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from aegis_workers.cli import memory_words
from aegis_workers.cli.output import print_json, print_table
from aegis_workers.routing import Engine, Mode

if TYPE_CHECKING:
    from aegis_workers.settings import Settings

_ACTS = {
    "start": "would start",
    "stop": "would stop",
    "keep": "goes on",
    "await": "should run; someone else runs it, and has to start it",
    "fence": "gets no more calls; someone else runs it, and has to stop it",
    "leave": "stays as it is",
    "nothing": "stays stopped",
}


def show(settings: "Settings", mode: Mode, *, as_json: bool) -> None:
    """Say what a switch to `mode` would do."""
    from aegis_workers.overview import prospect
    from aegis_workers.state import connection

    with connection.explained(settings), connection.open_sync(settings) as client:
        found = prospect.foresee(client, settings, mode)
    if as_json:
        print_json(found)
        return
    click.echo(f"Nothing is written. The mode is {found['previous'] or 'not set'}; in mode {found['mode']}:")
    click.echo()
    print_table(("ENGINE", "WHAT"), [(Engine(name).label, _words(engine)) for name, engine in found["engines"].items()])
    click.echo(f"\nMemory: {memory_words.line(found['memory'])}")
    if found["controller"] is None:
        click.echo("No controller leads: nothing is started or stopped until one runs (aegis-workers controller).")


def _words(engine: Mapping[str, Any]) -> str:
    return ": ".join(("; ".join(_parts(engine)), engine["reason"])) if engine["configured"] else "not configured"


def _parts(engine: Mapping[str, Any]) -> Iterator[str]:
    yield _ACTS[engine["act"]]
    if engine["act"] == "start":
        yield f"needs {engine['needs_gb']:g} GB"
    if engine["act"] in {"stop", "fence"}:
        then = "then they are closed and wait again" if engine["drain_then"] == "close" else "then it is waited on"
        yield f"{engine['in_flight']} calls in flight there may take up to {engine['drain_s']:g} s, {then}"
