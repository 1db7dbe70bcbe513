"""Metrics that are read at the moment of a scrape."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from aegis_workers.metrics.metric import Kind, Metric, Values

log = structlog.get_logger(__name__)

BUILD: Final = Metric(
    name="aegis_build_info",
    kind=Kind.GAUGE,
    help="1; its labels say what this process is.",
    labels={"role": ("worker", "controller", "admin"), "queue": ("extraction", "chat", "control", ""), "version": ()},
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a gauge is now, by its label values."""

    metric: Metric
    values: Values


Source = Callable[[], Iterable[Reading]]


class Readings(Collector):
    """Asks a source at each scrape. One that fails shows nothing, and the others are shown."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterator[Family]:
        """See the library."""
        try:
            found = list(self._source())
        except Exception:  # whatever it is, the scrape goes on
            log.exception("metrics.unread")
            return
        for reading in found:
            yield family(reading)


def family(reading: Reading) -> Family:
    """A reading as the library shows it."""
    metric = reading.metric
    shown = GaugeMetricFamily(metric.name, metric.help, labels=tuple(metric.labels))
    for values, value in reading.values.items():
        shown.add_metric(metric.bounded(values), value)
    return shown


def registry(role: str, queue: str = "") -> CollectorRegistry:
    """A new registry with what every process shows: who it is, its CPU, memory and files."""
    found = CollectorRegistry(support_collectors_without_names=True)
    ProcessCollector(registry=found)
    build = Metric(name=BUILD.name, kind=BUILD.kind, help=BUILD.help, labels={**BUILD.labels, "version": (_version(),)})
    found.register(Readings(lambda: [Reading(metric=build, values={(role, queue, _version()): 1.0})]))
    return found


def _version() -> str:
    return metadata.version("aegis-workers")
