"""`doctor`: every value in force with its origin, and what is missing."""

from collections.abc import Iterator
from dataclasses import asdict

import anyio
import click

from aegis_workers import settings as settings_module
from aegis_workers.cli.output import json_option, print_json, print_table
from aegis_workers.engines.base import EngineClient, Probe, Readiness
from aegis_workers.errors import RedisUnavailable
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import connection, server
from aegis_workers.state.server import Finding, Level


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """Show every setting in force with its origin (secrets masked), and look whether Redis and the engines answer.

    Exit status 1 if something is missing without which no work can be done.
    """
    settings = settings_module.load()
    shown = settings_module.explain(settings)
    findings = [*_redis(settings), *_engines(settings)]
    if as_json:
        print_json({"settings": [asdict(setting) for setting in shown], "findings": [asdict(finding) for finding in findings]})
    else:
        print_table(("SETTING", "ORIGIN", "VALUE"), [(setting.name, setting.origin, setting.value) for setting in shown])
        click.echo()
        print_table(("CHECK", "RESULT", "FOUND"), [(finding.what, finding.level, finding.detail) for finding in findings])
    ctx.exit(1 if any(finding.level is Level.MISSING for finding in findings) else 0)


def _redis(settings: Settings) -> Iterator[Finding]:
    try:
        with connection.explained(settings), connection.open_sync(settings) as client:
            found = server.read(client)
    except RedisUnavailable as error:
        yield Finding(what="Redis", level=Level.MISSING, detail=str(error))
        return
    yield from found


def _engines(settings: Settings) -> Iterator[Finding]:
    found = anyio.run(_probe_all, settings)
    for engine in Engine:
        if settings.model(engine) is None:
            setting = f"AEGIS_{engine.upper()}_MODEL"
            yield Finding(what=engine.label, level=Level.WARNING, detail=f"not configured: set {setting} to use it")
    for client, probe in found:
        ready = probe.readiness is Readiness.READY
        detail = f"{client.url} {probe.readiness}" + (f": {probe.reason}" if probe.reason else "")
        yield Finding(what=client.engine.label, level=Level.OK if ready else Level.WARNING, detail=detail)
    if not any(probe.readiness is Readiness.READY for _, probe in found):
        yield Finding(what="Engines", level=Level.MISSING, detail="none is ready: calls would wait")


async def _probe_all(settings: Settings) -> list[tuple[EngineClient, Probe]]:
    from aegis_workers.engines import clients

    replicas = [client for engine in clients.build(settings).values() for client in engine]
    try:
        return [(client, await client.probe()) for client in replicas]
    finally:
        for client in replicas:
            await client.aclose()
