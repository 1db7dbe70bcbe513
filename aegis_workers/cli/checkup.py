"""What is there to work with: Redis, the engines, and what is missing."""

from collections.abc import Iterator

import anyio

from aegis_workers.controller import fitness, memory
from aegis_workers.controller.memory import NotMeasured
from aegis_workers.engines import clients
from aegis_workers.engines.base import EngineClient, Probe, Readiness
from aegis_workers.errors import RedisUnavailable
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import connection, server
from aegis_workers.state.server import Finding, Level

_STARTED_ELSEWHERE = "whoever runs it starts and stops it; the controller leaves it alone"


def findings(settings: Settings) -> list[Finding]:
    """All that was looked at, Redis first. Never raises for a part that is missing: that is what it finds."""
    return [*_redis(settings), *_engines(settings), *_drivers(settings), _memory(settings)]


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
        facts = _serving(probe, settings.model(client.engine)) if ready else probe.reason
        detail = f"{client.url} {probe.readiness}: {facts}"
        yield Finding(what=client.engine.label, level=Level.OK if ready else Level.WARNING, detail=detail)
    if not any(probe.readiness is Readiness.READY for _, probe in found):
        yield Finding(what="Engines", level=Level.MISSING, detail="none is ready: calls would wait")


def _drivers(settings: Settings) -> Iterator[Finding]:
    """What the controller of this host would start the engines with."""
    for engine, objection in anyio.run(fitness.objections, settings).items():
        driver = settings.driver(engine)
        found = objection or (_STARTED_ELSEWHERE if driver == "external" else "can start and stop it here")
        level = Level.OK if objection is None else Level.WARNING
        yield Finding(what=f"{engine.label} driver", level=level, detail=f"{driver}: {found}")


def _memory(settings: Settings) -> Finding:
    """What the controller of this host would measure."""
    try:
        found = memory.measure(settings.memory_source)
    except NotMeasured as error:
        return Finding(what="Memory", level=Level.WARNING, detail=str(error))
    detail = f"{found.free_gb:.1f} of {found.total_gb:.1f} GB free, by {found.source}"
    return Finding(what="Memory", level=Level.OK, detail=detail)


def _serving(probe: Probe, model: str | None) -> str:
    """What a ready engine serves: a probe that is ready has found the model there."""
    return f"version {probe.version or 'unknown'}, model {model} {'loaded' if probe.loaded else 'not loaded: first use loads it'}"


async def _probe_all(settings: Settings) -> list[tuple[EngineClient, Probe]]:
    replicas = [client for engine in clients.build(settings).values() for client in engine]
    try:
        return [(client, await client.probe()) for client in replicas]
    finally:
        for client in replicas:
            await client.aclose()
