"""The alert rules and the dashboard, against what is declared."""

import json
import re
import shutil
import subprocess

import monitoring
import pytest
from monitoring import ADDED_LABELS, DECLARED, ITS_OWN, base

PROMTOOL = shutil.which("promtool")
WHAT_MUST_BE_ALERTED = {
    "AegisEngineFailed",
    "AegisQueueWithoutWorker",
    "AegisModeProblem",
    "AegisBreakerOpen",
    "AegisNoController",
    "AegisPoisonSetAside",
    "AegisOldestWaitsTooLong",
}


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    alerts = monitoring.alerts()
    assert {alert.name for alert in alerts} >= WHAT_MUST_BE_ALERTED
    assert len({alert.name for alert in alerts}) == len(alerts)
    for alert in alerts:
        assert re.search(r"(?m)^        labels: \{severity: (page|ticket)\}$", alert.text), alert.name
        assert re.search(r"(?m)^          summary: \S.{20,}$", alert.text), alert.name
        assert re.search(r"(?m)^          action: (>-\n\s+)?\S.{20,}$", alert.text), alert.name


@pytest.mark.skipif(PROMTOOL is None, reason="Prometheus's promtool is not installed")
def test_prometheus_reads_the_rules_and_the_configuration() -> None:
    assert PROMTOOL is not None
    for arguments in (["rules", monitoring.ALERTS], ["config", "--syntax-only", monitoring.SCRAPES]):
        told = subprocess.run([PROMTOOL, "check", *map(str, arguments)], capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize("bracket", ["()", "{}", "[]"])
def test_the_brackets_of_every_expression_are_closed(bracket: str) -> None:
    for where, expr in monitoring.expressions():
        assert expr.count(bracket[0]) == expr.count(bracket[1]), where


def test_every_panel_has_its_place_and_asks_for_something() -> None:
    board = monitoring.dashboard()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == [
        "Engines",
        "Calls",
        "Queues and waiting",
        "Jobs",
        "Workers",
    ]
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        mine = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not mine & cells, panel["title"]
        assert max(x for x, _ in mine) < 24, panel["title"]
        cells |= mine
        assert panel["type"] == "row" or panel["targets"], panel["title"]


def test_every_panel_asks_the_data_source_that_is_provisioned_in_words_that_grafana_knows() -> None:
    board = monitoring.dashboard()
    [variable] = board["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
    assert f"uid: {variable['current']['value']}\n" in monitoring.DATASOURCE.read_text()
    for panel in board["panels"]:
        assert panel["type"] in {"row", "stat", "state-timeline", "timeseries"}, panel["title"]
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"] in {"short", "s", "bytes", "percentunit"}, panel["title"]
            sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
            assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources), panel["title"]
    assert set(re.findall(r"\$\w+|\$\{\w+\}", json.dumps(board))) == {"${datasource}", "$__rate_interval"}
    assert board["schemaVersion"] <= 39  # that of Grafana 11; a later Grafana reads earlier ones


def test_every_label_and_value_that_is_asked_for_is_one_that_is_shown() -> None:
    for where, expr in monitoring.expressions():
        known = {"le", *ADDED_LABELS}
        for name, matchers in monitoring.selected(expr):
            if name in ITS_OWN or name.startswith("process_"):
                continue
            labels = DECLARED[base(name)].labels
            known |= set(labels)
            for label, _, value in matchers:
                shown = [found for found in labels[label] if re.fullmatch(value, found)]
                wanted = value.split("|")
                assert len(shown) >= len(wanted), (where, name, label, value)
        assert monitoring.grouped(expr) <= known, where


def test_the_containers_are_scraped_where_they_show_metrics() -> None:
    text = monitoring.SCRAPES.read_text()
    assert "names: [extraction, chat, control, controller]" in text
    assert 'targets: ["admin:8080"]' in text
    assert "credentials_file:" in text
