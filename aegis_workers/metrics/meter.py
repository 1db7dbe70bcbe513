"""Counts what is told, in the metrics of `counted`."""

import threading
from collections.abc import Iterable
from typing import assert_never

from prometheus_client import CollectorRegistry

from aegis_workers.metrics import counted
from aegis_workers.metrics.instrument import Instrument
from aegis_workers.metrics.metric import Metric
from aegis_workers.telemetry import (
    AttemptEnded,
    CallAdmitted,
    CallFinished,
    ChunksFed,
    Fact,
    ItemsCollected,
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


class Meter:
    """Hears facts, from any thread, and counts them in those of `metrics` that they are for."""

    def __init__(self, metrics: Iterable[Metric], registry: CollectorRegistry) -> None:
        self._instruments = {metric.name: Instrument(metric) for metric in metrics}
        self._writing = threading.Lock()
        for instrument in self._instruments.values():
            registry.register(instrument)

    def hear(self, fact: Fact) -> None:
        """Count it."""
        with self._writing:
            self._count(fact)

    def _count(self, fact: Fact) -> None:  # noqa: C901, PLR0912 - one case a fact, those of each call first
        match fact:
            case CallAdmitted():
                self._add(counted.ADMITTED, 1, fact.task_type, fact.engine, fact.because)
                self._observe(counted.WAITED, fact.waited_s, fact.task_type)
            case AttemptEnded():
                self._add(counted.ATTEMPTS, 1, fact.engine, fact.error or counted.ANSWERED)
                self._observe(counted.ASKED, fact.took_s, fact.task_type, fact.engine)
            case CallFinished():
                self._add(counted.CALLS, 1, fact.task_type, fact.engine, fact.status)
                self._add(counted.TOKENS, fact.prompt_tokens, fact.engine, counted.PROMPT)
                self._add(counted.TOKENS, fact.completion_tokens, fact.engine, counted.COMPLETION)
            case SlotsExchanged():
                self._observe(counted.ADMISSION, fact.took_s, fact.engine)
                for refusal in fact.refusals:
                    self._add(counted.REFUSALS, 1, fact.engine, refusal)
            case TaskBegun():
                if fact.again:
                    self._add(counted.REDELIVERIES, 1, fact.task)
            case TaskEnded():
                self._add(counted.TASKS, 1, fact.task, fact.ending)
            case PoisonFound():
                self._add(counted.POISON, 1, fact.killed)
            case WorkerDied():
                self._add(counted.DEATHS, 1)
            case MessagesReturned():
                self._add(counted.RETURNED, fact.messages)
            case PhaseEntered():
                self._phase(fact)
            case SwitchFinished():
                self._observe(counted.SWITCH_SECONDS, fact.took_s)
                self._set(counted.SWITCH_LAST, fact.took_s)
            case LeadershipChanged():
                self._set(counted.LEADING, float(fact.leads))
            case ChunksFed():
                self._add(counted.FED, fact.chunks)
            case ItemsCollected():
                for status, count in fact.counts.items():
                    self._add(counted.COLLECTED, count, status)
            case _:
                assert_never(fact)

    def _phase(self, fact: PhaseEntered) -> None:
        self._add(counted.PHASES, 1, fact.engine, fact.phase)
        if fact.before is not None and fact.lasted_s is not None:
            self._observe(counted.PHASE_SECONDS, fact.lasted_s, fact.engine, fact.before)
            self._set(counted.PHASE_LAST, fact.lasted_s, fact.engine, fact.before)

    def _add(self, metric: Metric, amount: float, *labels: str) -> None:
        if instrument := self._instruments.get(metric.name):
            instrument.add(labels, amount)

    def _observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        if instrument := self._instruments.get(metric.name):
            instrument.observe(labels, seconds)

    def _set(self, metric: Metric, value: float, *labels: str) -> None:
        if instrument := self._instruments.get(metric.name):
            instrument.set(labels, value)
