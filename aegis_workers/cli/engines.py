"""`engines`: what an operator asks first."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from aegis_workers import settings as settings_module
from aegis_workers.cli.output import ago, json_option, print_json, print_table
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import connection, engine_status, workers
from aegis_workers.state import mode as modes
from aegis_workers.state.engine_status import EngineStatus
from aegis_workers.state.workers import WorkerReport

# The prober's lease outlives as many looks; then another worker should long have taken over.
_MISSED_LOOKS = 3


@click.command()
@json_option
def engines(*, as_json: bool) -> None:
    """Show the mode, the engines, and how many calls wait for what."""
    found = snapshot(settings_module.load())
    if as_json:
        print_json(found)
    else:
        _show(found)


def snapshot(settings: Settings) -> dict[str, Any]:
    """The system as Redis knows it now: mode, engines, what waits, and the workers. Times in epoch seconds."""
    with connection.explained(settings), connection.open_sync(settings) as client:
        mode = modes.read(client, settings.llm_engine_mode)
        reports = workers.read_all(client)
        statuses = {engine: engine_status.read(client, engine) for engine in Engine}
    waiting: Counter[str] = Counter()
    for report in reports:
        waiting.update(report.waiting)
    return {
        "mode": mode.mode.value,
        "problem": mode.problem,
        "engines": {engine.value: _engine(engine, statuses[engine], reports, settings) for engine in Engine},
        "waiting": dict(waiting),
        "workers": [{"id": report.worker_id, "queue": report.queue, "pid": report.pid} for report in reports],
    }


def _engine(engine: Engine, status: EngineStatus, reports: Sequence[WorkerReport], settings: Settings) -> dict[str, Any]:
    configured = bool(status.replicas) or settings.model(engine) is not None
    return {
        "state": status.state.value if configured else "not_configured",
        "reason": status.reason if configured else f"AEGIS_{engine.upper()}_MODEL is not set",
        "stale": configured and _is_stale(status, settings),
        "since": status.since,
        "probed_at": status.probed_at,
        "in_flight": sum(report.in_flight.get(engine, 0) for report in reports),
        "limit": settings.limit(engine) * max(1, len(status.replicas)),
        "tokens_per_s": round(sum(report.tokens_per_s.get(engine, 0.0) for report in reports), 1),
        "replicas": [
            {"url": replica.url, "state": replica.state.value, "reason": replica.reason, "loaded": replica.loaded}
            for replica in status.replicas
        ],
    }


def _is_stale(status: EngineStatus, settings: Settings) -> bool:
    """Whether so many looks were missed that what is on record may be wrong."""
    allowed_s = _MISSED_LOOKS * settings.probe_interval_s + settings.probe_timeout_s
    return status.probed_at is None or time.time() - status.probed_at > allowed_s


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
