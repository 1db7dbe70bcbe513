"""What the README says of metrics, against what is declared."""

import readme

from aegis_workers.admin import figures
from aegis_workers.dispatch.lines import Awaited
from aegis_workers.metrics import counted
from aegis_workers.routing import Because
from aegis_workers.worker import gauges

WHO = {"worker": (*counted.OF_WORKER, *gauges.ALL), "controller": counted.OF_CONTROLLER, "admin": figures.ALL}


def test_the_table_of_metrics_has_every_metric_with_its_labels() -> None:
    said = [
        (readme.words(name)[0], readme.words(labels), who)
        for name, labels, who, _ in readme.table("metric", "labels", "from", "what")
    ]
    assert said == [(metric.name, list(metric.labels), who) for who, metrics in WHO.items() for metric in metrics]


def test_every_reason_that_is_counted_is_named() -> None:
    section = readme.TEXT.partition("### Metrics")[2].partition("\n### ")[0]
    assert {*Because, *Awaited} <= set(readme.words(section))
