"""`health`: what a container or service manager asks of the workers on its host."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from aegis_workers.cli.output import ago, json_option, print_json, print_table
from aegis_workers.errors import ConfigurationError
from aegis_workers.worker import health as files
from aegis_workers.worker.health import Health, Verdict


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A worker that was asked for; `health` is None where it has written no file."""

    name: str
    health: Health | None
    verdict: Verdict

    def is_well(self, *, only_live: bool) -> bool:
        return self.verdict.live if only_live else self.verdict.ready


@click.command()
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@click.option("--live", "only_live", is_flag=True, help="Ask only whether they are alive: a worker without Redis is.")
@json_option
@click.pass_context
def health(ctx: click.Context, nodes: Sequence[str], *, only_live: bool, as_json: bool) -> None:
    """Say whether the workers of this host are well: those named, or all that write to AEGIS_HEALTH_DIR.

    NODE is a worker's node name, such as chat@host, or its part before the @. Exit status 1 unless every one of them takes
    messages now.
    """
    from aegis_workers import settings as settings_module

    folder = settings_module.load().health_dir
    if folder is None:
        raise ConfigurationError("AEGIS_HEALTH_DIR is not set: set it to a folder, here and for the workers")
    found = list(_find(folder, nodes))
    if as_json:
        print_json([_as_json(worker, only_live=only_live) for worker in found])
    else:
        columns = ("WORKER", "STATE", "QUEUE", "IN FLIGHT", "WAITING", "SAID", "REASON")
        print_table(columns, [_row(worker) for worker in found], numbers=columns[3:5])
    ctx.exit(0 if all(worker.is_well(only_live=only_live) for worker in found) else 1)


def _find(folder: Path, nodes: Sequence[str]) -> Iterator[_Found]:
    try:
        written = list(files.read_all(folder))
    except OSError as error:
        raise ConfigurationError(f"AEGIS_HEALTH_DIR={folder} cannot be read: {error.strerror or error}") from None
    if not written and not nodes:
        raise ConfigurationError(f"no worker has written to AEGIS_HEALTH_DIR={folder}: start one with this setting")
    now = time.time()
    for name in nodes or [health.node for health in written]:
        named = [health for health in written if health.is_named(name)]
        yield from (_Found(name=health.node, health=health, verdict=health.verdict(now)) for health in named)
        if not named:
            reason = f"it has no file in {folder}: it has not started, or it has ended"
            yield _Found(name=name, health=None, verdict=Verdict(live=False, ready=False, reason=reason))


def _state(verdict: Verdict) -> str:
    return "ready" if verdict.ready else "alive" if verdict.live else "dead"


def _row(found: _Found) -> tuple[str, ...]:
    said = found.health
    facts = ("", "", "", "never") if said is None else (said.queue, *map(str, _counts(said)), ago(said.at))
    return (found.name, _state(found.verdict), *facts, found.verdict.reason or "")


def _counts(said: Health) -> tuple[int, int]:
    return sum(said.in_flight.values()), sum(said.waiting.values())


def _as_json(found: _Found, *, only_live: bool) -> dict[str, object]:
    said = found.health
    verdict = {
        "node": found.name,
        "ok": found.is_well(only_live=only_live),
        "live": found.verdict.live,
        "ready": found.verdict.ready,
        "reason": found.verdict.reason,
    }
    if said is None:
        return verdict
    counts = {"in_flight": dict(said.in_flight), "waiting": dict(said.waiting)}
    return verdict | {"at": said.at, "stopping": said.stopping, "queue": said.queue, "worker_id": said.worker_id, **counts}
