"""A declared metric while it is counted.

The library's own counters cost a worker four times as much: a lock, and two checks, for each number. Here one lock is held for
all that a fact is counted in, and the library is given the numbers when it shows them.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate, product

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from aegis_workers.metrics.metric import Kind, Metric

Labels = tuple[str, ...]


class Instrument(Collector):
    """One metric. Label values come in the order of the labels; who writes has a lock."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        # Of a histogram: how many there were up to each bound and above the last one, not summed up, and their sum.
        self._rows: dict[Labels, list[float]] = {}
        self._values: dict[Labels, float] = {}
        self._bounds = list(metric.buckets)
        if metric.kind is Kind.COUNTER:
            # One that first appears with its first event would show no increase by it.
            self._values.update(dict.fromkeys(product(*metric.labels.values()), 0.0))
        elif not metric.labels:
            self._begin()

    def _begin(self) -> None:
        if self._metric.kind is Kind.HISTOGRAM:
            self._rows[()] = self._new_row()
        else:
            self._values[()] = 0.0

    def add(self, labels: Labels, amount: float) -> None:
        """Count more."""
        try:
            self._values[labels] += amount
        except KeyError:
            known = self._metric.bounded(labels)
            self._values[known] = self._values.get(known, 0.0) + amount

    def set(self, labels: Labels, value: float) -> None:
        """It is this now."""
        self._values[self._metric.bounded(labels)] = value

    def observe(self, labels: Labels, value: float) -> None:
        """Count one more of this size."""
        row = self._rows.get(labels)
        if row is None:
            row = self._rows.setdefault(self._metric.bounded(labels), self._new_row())
        row[bisect_left(self._bounds, value)] += 1
        row[-1] += value

    def _new_row(self) -> list[float]:
        return [0.0] * (len(self._bounds) + 2)

    def collect(self) -> Iterable[Family]:
        """See the library; from any thread."""
        if self._metric.kind is Kind.HISTOGRAM:
            yield self._histogram()
        else:
            kind = CounterMetricFamily if self._metric.kind is Kind.COUNTER else GaugeMetricFamily
            family = kind(self._metric.name, self._metric.help, labels=tuple(self._metric.labels))
            for labels, value in tuple(self._values.items()):
                family.add_metric(list(map(str, labels)), value)
            yield family

    def _histogram(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(self._metric.name, self._metric.help, labels=tuple(self._metric.labels))
        for labels, row in tuple(self._rows.items()):
            *counts, total = tuple(row)
            family.add_metric(list(map(str, labels)), list(self._buckets(counts)), total)
        return family

    def _buckets(self, counts: Iterable[float]) -> Iterator[tuple[str, float]]:
        names = (*map(floatToGoString, self._bounds), "+Inf")
        return zip(names, accumulate(counts), strict=True)
