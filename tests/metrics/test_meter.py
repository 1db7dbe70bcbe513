"""What is counted, and how many series that can become."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monitoring import DECLARED
from prometheus_client import CollectorRegistry

from aegis_workers import tasks, telemetry
from aegis_workers.errors import ErrorClass
from aegis_workers.metrics import counted
from aegis_workers.metrics.meter import Meter
from aegis_workers.metrics.metric import OTHER, Kind
from aegis_workers.outcome import Status
from aegis_workers.routing import Because, Engine, TaskType
from aegis_workers.telemetry import (
    AttemptEnded,
    CallAdmitted,
    CallFinished,
    ChunksFed,
    Ending,
    ItemsCollected,
    Killed,
    LeadershipChanged,
    MessagesReturned,
    PhaseEntered,
    PoisonFound,
    SlotsExchanged,
    SwitchFinished,
    TaskBegun,
    TaskEnded,
    WorkerDied,
)
from aegis_workers.worker.door import Door

EVERY = (*counted.OF_WORKER, *counted.OF_CONTROLLER)
VLLM, CHAT = Engine.VLLM, TaskType.CHAT
ON = {"engine": "vllm"}


def heard(*facts: telemetry.Fact) -> CollectorRegistry:
    registry = CollectorRegistry()
    with telemetry.heard_by(Meter(EVERY, registry).hear):
        for fact in facts:
            telemetry.tell(fact)
    return registry


FINISHED = CallFinished(task_type=CHAT, engine=VLLM, status=Status.TRUNCATED, prompt_tokens=7, completion_tokens=5)
REFUSED = SlotsExchanged(engine=VLLM, took_s=0.002, refusals=["full"])
LEFT = PhaseEntered(engine=VLLM, phase="stopped", before="stopping", lasted_s=3.0)
FELL_BACK = CallAdmitted(task_type=CHAT, engine=VLLM, because=Because.FALLBACK_DOWN, waited_s=0.2)


@pytest.mark.parametrize(
    ("fact", "name", "labels", "value"),
    [
        (FINISHED, "aegis_calls_total", {"type": "chat", **ON, "outcome": "truncated"}, 1),
        (FINISHED, "aegis_tokens_total", {**ON, "kind": "prompt"}, 7),
        (FINISHED, "aegis_tokens_total", {**ON, "kind": "completion"}, 5),
        (FELL_BACK, "aegis_calls_admitted_total", {"type": "chat", **ON, "because": "fallback_down"}, 1),
        (FELL_BACK, "aegis_call_waiting_seconds_bucket", {"type": "chat", "le": "0.25"}, 1),
        (FELL_BACK, "aegis_call_waiting_seconds_bucket", {"type": "chat", "le": "0.1"}, 0),
        (REFUSED, "aegis_admission_seconds_sum", ON, 0.002),
        (REFUSED, "aegis_admission_refusals_total", {**ON, "refusal": "full"}, 1),
        (
            AttemptEnded(task_type=CHAT, engine=VLLM, error=ErrorClass.TRANSIENT, took_s=1.0),
            "aegis_call_attempts_total",
            {**ON, "ended": "transient"},
            1,
        ),
        (
            AttemptEnded(task_type=CHAT, engine=VLLM, error=None, took_s=1.5),
            "aegis_call_engine_seconds_sum",
            {"type": "chat", **ON},
            1.5,
        ),
        (TaskBegun(task="aegis.chat", again=True), "aegis_redeliveries_total", {"task": "aegis.chat"}, 1),
        (TaskBegun(task="aegis.chat", again=False), "aegis_redeliveries_total", {"task": "aegis.chat"}, 0),
        (
            TaskEnded(task="aegis.chat", ending=Ending.PUT_BACK),
            "aegis_tasks_total",
            {"task": "aegis.chat", "ended": "put_back"},
            1,
        ),
        (PoisonFound(killed=Killed.ENGINE), "aegis_poison_total", {"killed": "engine"}, 1),
        (WorkerDied(), "aegis_worker_deaths_total", {}, 1),
        (MessagesReturned(messages=4), "aegis_messages_returned_total", {}, 4),
        (LEFT, "aegis_engine_phases_total", {**ON, "phase": "stopped"}, 1),
        (LEFT, "aegis_engine_phase_last_seconds", {**ON, "phase": "stopping"}, 3),
        (LEFT, "aegis_engine_phase_seconds_count", {**ON, "phase": "stopping"}, 1),
        (SwitchFinished(took_s=2.5), "aegis_switch_last_seconds", {}, 2.5),
        (SwitchFinished(took_s=2.5), "aegis_switch_seconds_count", {}, 1),
        (LeadershipChanged(leads=True), "aegis_controller_leading", {}, 1),
        (ChunksFed(chunks=32), "aegis_job_chunks_fed_total", {}, 32),
        (ItemsCollected(counts={Status.OK: 3}), "aegis_job_items_total", {"status": "ok"}, 3),
    ],
)
def test_each_fact_is_counted_where_it_belongs(fact: telemetry.Fact, name: str, labels: Mapping[str, str], value: float) -> None:
    assert heard(fact).get_sample_value(name, dict(labels)) == value


def test_nothing_is_heard_after_the_end() -> None:
    registry = heard(WorkerDied())
    telemetry.tell(WorkerDied())
    assert registry.get_sample_value("aegis_worker_deaths_total") == 1


@given(st.lists(st.text(max_size=20), max_size=30))
def test_whatever_is_told_the_series_stay_within_their_bound(words: list[str]) -> None:
    registry = heard(*(TaskEnded(task=word, ending=Ending.DONE) for word in words))
    labels = {sample.labels["task"] for family in registry.collect() for sample in family.samples if "task" in sample.labels}
    assert labels <= {*counted.TASKS.labels["task"], OTHER}
    unknown = [word for word in words if word not in counted.TASKS.labels["task"]]
    assert registry.get_sample_value("aegis_tasks_total", {"task": OTHER, "ended": "done"}) == (len(unknown) or None)


def test_a_process_shows_at_most_some_hundred_series() -> None:
    for metrics in (counted.OF_WORKER, counted.OF_CONTROLLER):
        assert sum(metric.most_series for metric in metrics) < 700


def test_every_task_of_the_loop_is_one_that_is_counted() -> None:
    doors = [task.name for task in vars(tasks).values() if isinstance(task, Door) and not task.name.endswith("_mode")]
    assert sorted(counted.TASKS.labels["task"]) == sorted(doors)


@pytest.mark.parametrize("name", DECLARED)
def test_every_name_follows_the_conventions_of_prometheus(name: str) -> None:
    metric = DECLARED[name]
    assert name.startswith("aegis_")
    assert (metric.kind is Kind.COUNTER) == name.endswith("_total")
    assert len(metric.help) > 10
    assert metric.help.endswith(".") or name == "aegis_build_info"
    assert metric.kind is not Kind.HISTOGRAM or name.endswith("_seconds")
    assert not name.endswith(("_ms", "_milliseconds", "_kb", "_mb", "_gb", "_minutes"))


def test_the_buckets_of_calls_reach_the_longest_attempt() -> None:
    for metric in (counted.WAITED, counted.ASKED):
        assert max(metric.buckets) == 120
    assert all(list(metric.buckets) == sorted(set(metric.buckets)) for metric in EVERY)


def test_every_counter_is_there_before_its_first_event() -> None:
    registry: Any = heard()
    for metric in (metric for metric in EVERY if metric.kind is Kind.COUNTER):
        for values in itertools.product(*metric.labels.values()):
            assert registry.get_sample_value(metric.name, dict(zip(metric.labels, values, strict=True))) == 0, metric.name
