"""`engines`: what an operator asks first."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import click

from aegis_workers.cli.output import ago, json_option, print_json, print_table
from aegis_workers.routing import Engine


@click.command()
@json_option
def engines(*, as_json: bool) -> None:
    """Show the mode, the engines, and how many calls wait for what."""
    from aegis_workers import settings as settings_module
    from aegis_workers.cli import snapshot

    found = snapshot.take(settings_module.load())
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: Mapping[str, Any]) -> None:
    click.echo(f"Mode: {found['mode']}" + (f" ({found['problem']})" if found["problem"] else ""))
    click.echo()
    columns = ("ENGINE", "STATE", "SINCE", "PROBED", "IN FLIGHT", "LIMIT", "TOK/S")
    print_table(columns, [_row(name, engine) for name, engine in found["engines"].items()], numbers=columns[4:])
    notes = [note for name, engine in found["engines"].items() for note in _notes(Engine(name), engine)]
    if notes:
        click.echo()
        print_table(("ENGINE", "REASON"), notes)
    if found["waiting"]:
        click.echo()
        print_table(
            ("CALLS", "WAITING"), [(str(count), reason) for reason, count in found["waiting"].items()], numbers=("CALLS",)
        )
    queues = Counter(worker["queue"] for worker in found["workers"])
    shown = ", ".join(f"{queue} {count}" for queue, count in sorted(queues.items()))
    click.echo(f"\nWorkers: {shown or 'none (start one: celery -A aegis_workers worker -Q extraction)'}")


def _row(name: str, engine: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        Engine(name).label,
        engine["state"],
        ago(engine["since"]),
        ago(engine["probed_at"]),
        str(engine["in_flight"]),
        str(engine["limit"]),
        f"{engine['tokens_per_s']:g}",
    )


def _notes(engine: Engine, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What to know of an engine beside its state: why it is not ready, which of its replicas is not, and how old that is."""
    if found["stale"]:
        yield engine.label, "stale: nobody looks at it; a worker does so while it runs"
    if len(found["replicas"]) > 1:
        for replica in found["replicas"]:
            yield engine.label, f"{replica['url']}: {replica['state']}" + (f": {replica['reason']}" if replica["reason"] else "")
    elif found["reason"]:
        yield engine.label, found["reason"]
