"""Real workers, a controller and the admin API after some calls: what they show is all that is asked for, and nothing else."""

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monitoring
import pytest
from installation import Installation, eventually, installed
from monitoring import DECLARED, ITS_OWN, Scraped, base

from aegis_workers.jobs import submission
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms
from aegis_workers.local import children, process
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine

pytestmark = pytest.mark.timeout(180)

MARKER = "Zyxwvut"
TEXT = f"{MARKER} Stone leads Brightwater Labs in Oslo."
TOKEN = "a token of the test"  # noqa: S105
QUEUES = ("extraction", "chat", "control")


@dataclass(frozen=True, kw_only=True)
class Here:
    """An installation in which something has happened. `shown`: what each process showed then."""

    place: Installation
    admin: Process
    controller: Process
    shown: Scraped


def port_of(log: str) -> int:
    """Where a process says that it shows its metrics."""
    served = (json.loads(line) for line in log.splitlines() if '"metrics.served"' in line)
    return int(next(served)["port"])


def get(log: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port_of(log)}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    return text


def of_system(admin: Process) -> str:
    """What the admin API shows who brings its token as Prometheus does."""
    request = urllib.request.Request(f"{children.address(admin)}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - on loopback
        text: str = response.read().decode()
    return text


def everything(place: Installation, admin: Process, controller: Process) -> Scraped:
    logs = [one.log.read_text() for one in (*place.workers, controller)]
    return monitoring.scraped([*(get(log) for log in logs), of_system(admin)])


def work(place: Installation, controller: Process) -> None:
    """Calls of each type, a job, an engine that goes and a chat that falls back, and a mode that is none."""
    single = [
        place.chat(TEXT),
        place.send("aegis.generate", prompt=TEXT),
        place.send("aegis.extract", text=TEXT),
        place.send("aegis.extract_batch", items=[{"custom_id": MARKER, "text": TEXT}]),
    ]
    job = submission.write(
        Spool(place.settings.data_dir), Items(items=[(f"{MARKER}-{n}", TEXT) for n in range(40)]), Terms(), place.settings
    ).job
    for result in single:
        result.get(timeout=60)
    eventually(lambda: job.journal.last().state.is_terminal, within_s=60)
    place.kill_engine(Engine.OLLAMA)
    place.chat(TEXT).get(timeout=60)
    eventually(lambda: '"ready_s"' in controller.log_text(), within_s=60)  # a phase has begun and ended


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    logs = tmp_path_factory.mktemp("metrics")
    more: dict[str, Any] = {"metrics_port": "0", "data_dir": logs / "data", "admin_token": TOKEN, "min_dwell_s": 0.0}
    with ExitStack() as stack:
        place = stack.enter_context(installed(logs, *QUEUES, **more))
        folder = logs / "leader"
        folder.mkdir()
        controller = children.start_controller(place.settings, folder)
        stack.callback(process.stop, [controller], 10)
        children.await_controller(controller)
        admin = children.start_admin(0, place.settings, folder)
        stack.callback(process.stop, [admin], 10)
        work(place, controller)
        yield Here(place=place, admin=admin, controller=controller, shown=everything(place, admin, controller))


def test_every_metric_that_an_alert_or_a_panel_names_is_there_with_its_labels(here: Here) -> None:
    for where, expr in monitoring.expressions():
        for name, matchers in monitoring.selected(expr):
            if name in ITS_OWN:
                continue
            assert name in here.shown.series, (where, name)
            labels = set().union(*(found.keys() for found in here.shown.series[name]))
            assert {label for label, _, _ in matchers} <= labels, (where, name)


def test_every_metric_that_is_declared_is_shown_once_it_has_happened(here: Here) -> None:
    assert {base(name) for name in here.shown.series} >= DECLARED.keys()


def test_every_label_value_is_one_of_a_closed_set(here: Here) -> None:
    for name, series in here.shown.series.items():
        if not name.startswith("aegis_") or name == "aegis_build_info":
            continue
        declared = DECLARED[base(name)].labels
        for labels in series:
            assert labels.keys() - {"le"} == declared.keys(), name
            assert all(value in declared[label] for label, value in labels.items() if label != "le"), (name, labels)


def test_nothing_that_a_caller_wrote_is_shown(here: Here) -> None:
    shown = json.dumps([here.shown.series, here.shown.helps])
    assert MARKER.lower() not in shown.lower()
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}", shown)  # ids of tasks and jobs
    assert here.place.settings.redis_url not in shown


def test_each_metric_has_the_help_and_the_type_of_its_declaration(here: Here) -> None:
    for name, metric in DECLARED.items():
        assert here.shown.helps[name] == metric.help
        assert here.shown.types[name] == metric.kind.value


def await_series(ask: Callable[[], str], *series: str) -> None:
    """Returns when a process shows all of these: each counts and looks around in a time of its own."""
    missing: list[str] = []

    def are_shown() -> bool:
        text = ask()
        missing[:] = [one for one in series if f"\n{one}\n" not in text]
        return not missing

    with suppress(AssertionError):
        eventually(are_shown)
    assert missing == []


def test_what_happened_is_what_was_counted(here: Here) -> None:
    extraction, chat, _ = (one.log.read_text() for one in here.place.workers)
    await_series(
        lambda: of_system(here.admin),
        'aegis_jobs{state="completed"} 1.0',
        'aegis_workers{queue="chat"} 1.0',
        'aegis_engine_state{engine="ollama",state="unavailable"} 1.0',
        'aegis_engine_phase{engine="ollama",phase="stopped"} 1.0',
        "aegis_controllers_leading 1.0",
    )
    await_series(lambda: get(here.controller.log_text()), 'aegis_job_items_total{status="ok"} 40.0')
    await_series(
        lambda: get(chat),
        'aegis_calls_total{engine="ollama",outcome="ok",type="generation"} 1.0',
        'aegis_calls_admitted_total{because="fallback_down",engine="vllm",type="chat"} 1.0',
        'aegis_tasks_total{ended="done",task="aegis.chat"} 2.0',
    )
    await_series(lambda: get(extraction), 'aegis_calls_total{engine="vllm",outcome="ok",type="extraction"} 42.0')


def test_the_gauges_of_the_system_are_shown_by_the_admin_api_alone(here: Here) -> None:
    worker = get(here.place.workers[0].log.read_text())
    for name in ("aegis_queue_messages", "aegis_jobs", "aegis_engine_state", "aegis_mode"):
        assert f"{name}{{" not in worker


def test_a_killed_worker_is_counted_with_the_messages_that_are_put_back(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", "chat", metrics_port="0", llm_engine_mode="vllm") as place:
        place.behave(Engine.VLLM, hang=True)
        results = [place.chat(f"{n}") for n in range(4)]
        eventually(lambda: place.in_flight(Engine.VLLM) == 4)
        victim = next(one for one in place.workers if 'in_flight{engine="vllm"} 0.0' not in get(one.log.read_text()))
        [other] = [one for one in place.workers if one is not victim]
        victim.popen.kill()
        # A message that is back in the queue is taken in another thread before the one that put it back can say so.
        for counted in (
            "aegis_worker_deaths_total 1.0",
            r'aegis_redeliveries_total\{task="aegis.chat"\} [1-4]\.0',
            r"aegis_messages_returned_total [1-4]\.0",
        ):
            eventually(lambda: re.search(counted, get(other.log.read_text())), within_s=60)  # noqa: B023 - called at once
        for result in results:
            result.forget()
