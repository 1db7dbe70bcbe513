"""Every metric that is counted as things happen: those of workers, and those of controllers."""

from typing import Final

from aegis_workers.errors import ErrorClass
from aegis_workers.metrics.metric import PHASE_S, QUICK_S, Kind, Metric
from aegis_workers.outcome import Status
from aegis_workers.routing import Because, Engine, TaskType
from aegis_workers.state.engine_control import Phase
from aegis_workers.state.slots import Refusal
from aegis_workers.telemetry import Ending, Killed

ANSWERED: Final = "answered"
PROMPT, COMPLETION = "prompt", "completion"

_ENGINE: Final = {"engine": tuple(Engine)}
_TASKS: Final = {"task": ("aegis.extract", "aegis.extract_batch", "aegis.read_chunks", "aegis.chat", "aegis.generate")}

CALLS: Final = Metric(
    name="aegis_calls_total",
    kind=Kind.COUNTER,
    help="Calls that have an outcome, by the engine that had them last.",
    labels={"type": tuple(TaskType), **_ENGINE, "outcome": tuple(Status)},
)
ADMITTED: Final = Metric(
    name="aegis_calls_admitted_total",
    kind=Kind.COUNTER,
    help="Calls that got a slot, by why they run there; a call that is asked again is admitted again.",
    labels={"type": tuple(TaskType), **_ENGINE, "because": tuple(Because)},
)
WAITED: Final = Metric(
    name="aegis_call_waiting_seconds",
    kind=Kind.HISTOGRAM,
    help="From a call's question for a slot until it got one; the time in the queue is not in it.",
    labels={"type": tuple(TaskType)},
)
ASKED: Final = Metric(
    name="aegis_call_engine_seconds",
    kind=Kind.HISTOGRAM,
    help="One attempt at an engine, from sent to answered or failed.",
    labels={"type": tuple(TaskType), **_ENGINE},
)
ATTEMPTS: Final = Metric(
    name="aegis_call_attempts_total",
    kind=Kind.COUNTER,
    help="Attempts at an engine, by how they ended: answered, or the class of the error.",
    labels={**_ENGINE, "ended": (ANSWERED, *ErrorClass)},
)
ADMISSION: Final = Metric(
    name="aegis_admission_seconds",
    kind=Kind.HISTOGRAM,
    help="One round trip to Redis in which slots are given back and taken.",
    labels=_ENGINE,
    buckets=QUICK_S,
)
REFUSALS: Final = Metric(
    name="aegis_admission_refusals_total",
    kind=Kind.COUNTER,
    help="Times that a lane got no slot, or not all it wanted: full, breaker open, or the decision is out of date.",
    labels={**_ENGINE, "refusal": tuple(Refusal)},
)
TOKENS: Final = Metric(
    name="aegis_tokens_total",
    kind=Kind.COUNTER,
    help="Tokens of answers that were taken, by the engine's own count.",
    labels={**_ENGINE, "kind": (PROMPT, COMPLETION)},
)
TASKS: Final = Metric(
    name="aegis_tasks_total",
    kind=Kind.COUNTER,
    help="Deliveries of tasks that ended, by how; done whatever the status in the result says.",
    labels={**_TASKS, "ended": tuple(Ending)},
)
REDELIVERIES: Final = Metric(
    name="aegis_redeliveries_total",
    kind=Kind.COUNTER,
    help="Deliveries of messages that had been delivered before.",
    labels=_TASKS,
)
POISON: Final = Metric(
    name="aegis_poison_total",
    kind=Kind.COUNTER,
    help="Calls that were set aside, by what they killed once too often.",
    labels={"killed": tuple(Killed)},
)
DEATHS: Final = Metric(name="aegis_worker_deaths_total", kind=Kind.COUNTER, help="Other workers that this process declared dead.")
RETURNED: Final = Metric(
    name="aegis_messages_returned_total",
    kind=Kind.COUNTER,
    help="Messages of dead workers that this process put back into their queue.",
)

_PHASE: Final = {**_ENGINE, "phase": tuple(Phase)}
PHASES: Final = Metric(
    name="aegis_engine_phases_total", kind=Kind.COUNTER, help="Phases of engines that began under this leader.", labels=_PHASE
)
PHASE_SECONDS: Final = Metric(
    name="aegis_engine_phase_seconds",
    kind=Kind.HISTOGRAM,
    help="How long the phases of engines lasted that this leader saw begin and end.",
    labels=_PHASE,
    buckets=PHASE_S,
)
PHASE_LAST: Final = Metric(
    name="aegis_engine_phase_last_seconds",
    kind=Kind.GAUGE,
    help="How long the last phase of this kind lasted.",
    labels=_PHASE,
)
SWITCH_SECONDS: Final = Metric(
    name="aegis_switch_seconds",
    kind=Kind.HISTOGRAM,
    help="From the moment in which the first engine began to move until none moved.",
    buckets=PHASE_S,
)
SWITCH_LAST: Final = Metric(name="aegis_switch_last_seconds", kind=Kind.GAUGE, help="How long the last switch took.")
LEADING: Final = Metric(name="aegis_controller_leading", kind=Kind.GAUGE, help="1 while this controller leads.")
FED: Final = Metric(name="aegis_job_chunks_fed_total", kind=Kind.COUNTER, help="Chunks of jobs that were put into the queue.")
COLLECTED: Final = Metric(
    name="aegis_job_items_total",
    kind=Kind.COUNTER,
    help="Items of jobs that got their line of results.",
    labels={"status": tuple(Status)},
)

OF_WORKER: Final = (
    CALLS,
    ADMITTED,
    WAITED,
    ASKED,
    ATTEMPTS,
    ADMISSION,
    REFUSALS,
    TOKENS,
    TASKS,
    REDELIVERIES,
    POISON,
    DEATHS,
    RETURNED,
)
OF_CONTROLLER: Final = (PHASES, PHASE_SECONDS, PHASE_LAST, SWITCH_SECONDS, SWITCH_LAST, LEADING, FED, COLLECTED)
