"""The metrics of a worker or a controller over HTTP, for as long as it runs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from aegis_workers import forms, telemetry
from aegis_workers.metrics.meter import Meter
from aegis_workers.metrics.metric import Metric
from aegis_workers.metrics.read import Readings, Source
from aegis_workers.settings import Settings
from aegis_workers.state import connection

log = structlog.get_logger(__name__)

# A worker that begins while the one before it still ends finds its port in use.
_AGAIN_S = 5.0


@asynccontextmanager
async def exposed(
    settings: Settings, registry: CollectorRegistry, metrics: Iterable[Metric], source: Source
) -> AsyncIterator[None]:
    """Counts `metrics` and shows them with those of `source` until the block ends, where `AEGIS_METRICS_PORT` says so.

    A port that cannot be had stops no work: it is said once, and tried again.
    """
    if settings.metrics_port is None:
        yield
        return
    registry.register(Readings(source))
    serving = asyncio.create_task(_serve(settings.metrics_host, forms.ports(settings.metrics_port), registry), name="metrics")
    try:
        with telemetry.heard_by(Meter(metrics, registry).hear):
            yield
    finally:
        await connection.ended(serving)


async def _serve(host: str, ports: Iterable[int], registry: CollectorRegistry) -> None:
    server = None
    try:
        server = await _started(host, ports, registry)
        await asyncio.Event().wait()
    finally:
        if server is not None:
            threading.Thread(target=_stop, args=[server], daemon=True).start()


async def _started(host: str, ports: Iterable[int], registry: CollectorRegistry) -> WSGIServer:
    said = False
    while True:
        refusal: OSError | None = None
        for port in ports:
            try:
                # It asks for this host's name, which can take long.
                server, _ = await asyncio.to_thread(start_http_server, port, host, registry)
            except OSError as error:
                refusal = error
            else:
                log.info("metrics.served", host=host, port=server.server_port)
                return server
        if not said:
            log.warning("metrics.not_served", host=host, port=f"{ports}", error=repr(refusal), again_s=_AGAIN_S)
            said = True
        await asyncio.sleep(_AGAIN_S)


def _stop(server: WSGIServer) -> None:
    server.shutdown()
    server.server_close()
