"""`engines`: what an operator asks first."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import click

from aegis_workers.cli import memory_words
from aegis_workers.cli.output import ago, json_option, plain, print_json, print_table, span
from aegis_workers.routing import Engine

# Of an engine that a controller has looked after.
_LIFE = ("ENGINE", "PHASE", "SINCE", "EPOCH", "BECAUSE")


@click.command()
@json_option
def engines(*, as_json: bool) -> None:
    """Show the mode, the engines, and how many calls wait for what."""
    from aegis_workers import settings as settings_module
    from aegis_workers.overview import snapshot
    from aegis_workers.state import connection

    settings = settings_module.load()
    with connection.explained(settings), connection.open_sync(settings) as client:
        found = snapshot.take(client, settings)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: Mapping[str, Any]) -> None:
    click.echo(f"Mode: {found['mode']}" + (f" ({found['problem']})" if found["problem"] else ""))
    click.echo()
    columns = ("ENGINE", "STATE", "SINCE", "PROBED", "IN FLIGHT", "LIMIT", "TOK/S")
    print_table(columns, [_row(name, engine) for name, engine in found["engines"].items()], numbers=columns[4:])
    _show_control(found)
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


def _show_control(found: Mapping[str, Any]) -> None:
    """What the controller makes of the engines; nothing where none ever led, and less where all are left to somebody else."""
    led = [(Engine(name), engine) for name, engine in found["engines"].items() if engine["phase"] is not None]
    if not led:
        return
    click.echo()
    all_elsewhere = all(engine["driver"] == "external" and not engine["fenced"] for _, engine in led)
    if all_elsewhere:
        print_table(_LIFE, [_life(engine, facts) for engine, facts in led])
    else:
        columns = (*_LIFE[:-1], "CALLS", "DRIVER", "ORIGIN", _LIFE[-1])
        print_table(columns, [_control_row(engine, facts) for engine, facts in led])
    if found["controller"] is None:
        click.echo("\nNo controller leads: what the last one said stays in force until one runs (aegis-workers controller).")
    if found["memory"] is not None and not all_elsewhere:
        click.echo(f"\nMemory: {memory_words.line(found['memory'])}")


def _life(engine: Engine, facts: Mapping[str, Any]) -> tuple[str, ...]:
    return engine.label, facts["phase"], ago(facts["phase_since"]), facts["epoch"] or "-", plain(_because(facts))


def _control_row(engine: Engine, facts: Mapping[str, Any]) -> tuple[str, ...]:
    *life, because = _life(engine, facts)
    return (*life, "fenced" if facts["fenced"] else "admitted", facts["driver"], facts["origin"] or "-", because)


def _because(facts: Mapping[str, Any]) -> str:
    """Its reason, what it wrote last, and what became of its starts."""
    words = [facts["phase_reason"] or "-"]
    if facts["said"]:
        words.append(f"it wrote: {facts['said']}")
    if facts["failures"]:
        words.append(f"{facts['failures']} failed start" + ("s" if facts["failures"] > 1 else ""))
    if facts["retry_at"] is not None and facts["retry_at"] > time.time():
        words.append(f"tried again in {span(facts['retry_at'] - time.time())}")
    return "; ".join(words)


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
    elif found["reason"] and not found["fenced"]:
        yield engine.label, found["reason"]
