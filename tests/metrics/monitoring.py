"""What `compose/` says to Prometheus and Grafana, and what real processes show them."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from aegis_workers.admin import figures
from aegis_workers.metrics import counted, read
from aegis_workers.metrics.metric import Kind, Metric
from aegis_workers.worker import gauges

COMPOSE = Path(__file__).parents[2] / "compose"
ALERTS = COMPOSE / "prometheus" / "alerts.yml"
SCRAPES = COMPOSE / "prometheus" / "prometheus.yml"
DATASOURCE = COMPOSE / "grafana" / "datasources" / "prometheus.yaml"
DASHBOARD = COMPOSE / "grafana" / "dashboards" / "aegis-workers.json"

DECLARED: Mapping[str, Metric] = {
    metric.name: metric for metric in (*counted.OF_WORKER, *counted.OF_CONTROLLER, *gauges.ALL, *figures.ALL, read.BUILD)
}
# What Prometheus itself adds to every series, or shows of every target.
ADDED_LABELS = frozenset({"instance", "job"})
ITS_OWN = frozenset({"up"})

_NAME = re.compile(r"\b(aegis_\w+|process_\w+|up)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|on|group_left)\s*\(([^)]*)\)")
_HISTOGRAM = re.compile(r"_(?:bucket|sum|count)$")


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One rule, as its file has it."""

    name: str
    expr: str
    text: str


def alerts() -> list[Alert]:
    """The rules, in their order. Read without a library: the file is written in the simplest form of its language."""
    blocks = re.split(r"(?m)^      - alert: ", ALERTS.read_text())[1:]
    return [Alert(name=block.split()[0], expr=_expression(block), text=block) for block in blocks]


def _expression(block: str) -> str:
    found = re.search(r"(?m)^        expr: (>-\n((?:^          .*\n)+)|(.+)$)", block)
    assert found, block
    return " ".join((found[2] or found[3]).split())


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression with the name of its alert or panel."""
    for alert in alerts():
        yield alert.name, alert.expr
    yield from asked()


def asked() -> Iterator[tuple[str, str]]:
    """Every expression of the dashboard with the title of its panel."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def selected(expr: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """The metrics that an expression names, each with its matchers: label, operator, value."""
    for name, matchers in _NAME.findall(expr):
        yield name, _MATCHER.findall(matchers)


def grouped(expr: str) -> set[str]:
    """The labels that an expression groups or joins by."""
    return {label.strip() for labels in _GROUPING.findall(expr) for label in labels.split(",")}


def base(name: str) -> str:
    """The name by which a series is declared: without what a histogram puts behind its own."""
    short = _HISTOGRAM.sub("", name)
    return short if short in DECLARED and DECLARED[short].kind is Kind.HISTOGRAM else name


@dataclass(frozen=True, kw_only=True)
class Scraped:
    """What several processes showed: the label sets of each series, and the help of each metric."""

    series: Mapping[str, list[Mapping[str, str]]]
    helps: Mapping[str, str]
    types: Mapping[str, str]


def scraped(texts: Iterable[str]) -> Scraped:
    """What these scrapes show together."""
    series: defaultdict[str, list[Mapping[str, str]]] = defaultdict(list)
    helps, types = {}, {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            helps[name], types[name] = family.documentation, family.type
            for sample in family.samples:
                series[sample.name].append(sample.labels)
    return Scraped(series=series, helps=helps, types=types)
