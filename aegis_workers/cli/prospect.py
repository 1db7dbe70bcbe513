"""`mode set --dry-run`: what a switch would do, without doing it."""

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from aegis_workers.cli import memory_words
from aegis_workers.cli.output import print_json, print_table
from aegis_workers.routing import Engine, Mode, TaskType

if TYPE_CHECKING:
    from aegis_workers.controller.outlook import Prospect
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
    found = foresee(settings, mode)
    if as_json:
        print_json(found)
        return
    click.echo(f"Nothing is written. The mode is {found['previous'] or 'not set'}; in mode {found['mode']}:")
    click.echo()
    print_table(("ENGINE", "WHAT"), [(Engine(name).label, _words(engine)) for name, engine in found["engines"].items()])
    click.echo(f"\nMemory: {memory_words.line(found['memory'])}")
    if found["controller"] is None:
        click.echo("No controller leads: nothing is started or stopped until one runs (aegis-workers controller).")


def foresee(settings: "Settings", mode: Mode) -> dict[str, Any]:
    """What a switch to `mode` would do, as plain values."""
    from aegis_workers.controller import outlook
    from aegis_workers.state import connection, engine_status, leader, memory, workers
    from aegis_workers.state import mode as modes

    with connection.explained(settings), connection.open_sync(settings) as client:
        reading = modes.read(client, settings.llm_engine_mode)
        statuses = {engine: engine_status.read(client, engine) for engine in Engine}
        measured, controller, reports = memory.read(client), leader.read(client), workers.read_all(client)
        queued = client.llen(TaskType.EXTRACTION)
    view = outlook.view(settings, mode, statuses, measured, now=time.time(), queued=queued)
    in_flight = {engine: sum(report.in_flight.get(engine, 0) for report in reports) for engine in Engine}
    found = outlook.prospects(view)
    return {
        "mode": mode.value,
        "previous": reading.raw,
        "dry_run": True,
        "engines": {engine.value: _engine(settings, found[engine], in_flight[engine]) for engine in Engine},
        "memory": memory_words.values(measured),
        "controller": controller,
    }


def _engine(settings: "Settings", prospect: "Prospect", in_flight: int) -> dict[str, Any]:
    size_gb = settings.vllm_memory_gb if prospect.facts.engine is Engine.VLLM else settings.ollama_memory_gb
    return {
        "configured": prospect.facts.configured,
        "act": prospect.act.value,
        "reason": prospect.want.reason,
        "driver": prospect.facts.driver,
        "in_flight": in_flight,
        "drain_s": settings.drain_s,
        "drain_then": settings.drain_then,
        "needs_gb": size_gb,
    }


def _words(engine: Mapping[str, Any]) -> str:
    return ": ".join(("; ".join(_parts(engine)), engine["reason"])) if engine["configured"] else "not configured"


def _parts(engine: Mapping[str, Any]) -> Iterator[str]:
    yield _ACTS[engine["act"]]
    if engine["act"] == "start":
        yield f"needs {engine['needs_gb']:g} GB"
    if engine["act"] in {"stop", "fence"}:
        then = "then they are closed and wait again" if engine["drain_then"] == "close" else "then it is waited on"
        yield f"{engine['in_flight']} calls in flight there may take up to {engine['drain_s']:g} s, {then}"
