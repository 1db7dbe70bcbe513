"""All that an operator looks at, as one object. Times are epoch seconds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import redis

from aegis_workers.errors import SpoolUnavailable
from aegis_workers.jobs.desk import Desk
from aegis_workers.origins import Setting
from aegis_workers.overview import cards, job_rows, troubles
from aegis_workers.overview import look as looks
from aegis_workers.overview.cards import Auto, Card
from aegis_workers.overview.job_rows import JobRow
from aegis_workers.overview.look import Look
from aegis_workers.routing import Engine, Mode, TaskType
from aegis_workers.settings import Settings
from aegis_workers.state import queues, switches
from aegis_workers.state.memory import Memory
from aegis_workers.state.queues import Queue
from aegis_workers.state.switches import Switch
from aegis_workers.state.workers import WorkerReport

JOBS: Final = 20
SWITCHES: Final = 20


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A setting in force, and where it came from: `default`, `profile`, `environment` or `file`."""

    value: str | None
    origin: str


@dataclass(frozen=True, kw_only=True)
class Controller:
    """The controller that leads."""

    name: str


@dataclass(frozen=True, kw_only=True)
class QueueRow:
    """One queue: `length` in messages, how long the oldest waits, and what the calls wait for that its workers hold."""

    name: str
    length: int
    oldest_s: float | None
    waiting: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class WorkerRow:
    """One worker process: its calls in flight by engine, and how many wait for what."""

    id: str
    queue: str
    host: str
    pid: int
    in_flight: Mapping[str, int]
    waiting: Mapping[str, int]
    seen_at: float | None


@dataclass(frozen=True, kw_only=True)
class JobPart:
    """The newest jobs; `problem`: why they cannot be read, in words."""

    rows: Sequence[JobRow]
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The system at `now`. `mode_problem`: why the mode in force is not what the key holds. `errors`: what is wrong, in words."""

    now: float
    mode: Mode
    mode_problem: str | None
    profile: Chosen
    default_mode: Chosen
    fallback: Chosen
    engines: Mapping[Engine, Card]
    auto: Auto
    controller: Controller | None
    memory: Memory | None
    queues: Sequence[QueueRow]
    jobs: Sequence[JobRow]
    workers: Sequence[WorkerRow]
    switches: Sequence[Switch]
    errors: Sequence[str]


def take(client: redis.Redis, settings: Settings, chosen: Mapping[str, Setting], find_jobs: Callable[[], JobPart]) -> Overview:
    """The system now. Raises `RedisError`, before any job is looked for.

    `chosen`: the settings by their names, as `origins.explain` has them. `find_jobs`: what finds the newest jobs.
    """
    look, lengths, history = looks.take(client, settings), queues.read_all(client), switches.read(client, SWITCHES)
    engines, job_part = cards.cards(look), find_jobs()
    queued = next(queue.length for queue in lengths if queue.name == TaskType.EXTRACTION)
    return Overview(
        now=look.at,
        mode=look.mode.mode,
        mode_problem=look.mode.problem,
        profile=_chosen(chosen["DEPLOYMENT_PROFILE"], is_set=settings.deployment_profile is not None),
        default_mode=_chosen(chosen["LLM_ENGINE_MODE"]),
        fallback=_chosen(chosen["AEGIS_FALLBACK"]),
        engines=engines,
        auto=cards.auto(look, queued=queued),
        controller=None if look.controller is None else Controller(name=look.controller),
        memory=look.memory,
        queues=queue_rows(look, lengths),
        jobs=job_part.rows,
        workers=worker_rows(look),
        switches=history,
        errors=[*troubles.troubles(look, engines, lengths), *([] if job_part.problem is None else [job_part.problem])],
    )


def newest_jobs(desk: Desk) -> JobPart:
    """The newest jobs; a data folder that cannot be read is a problem among others. Asks the disk for each of them."""
    try:
        return JobPart(rows=job_rows.rows(desk.list(JOBS).jobs))
    except SpoolUnavailable as error:
        return JobPart(rows=(), problem=str(error))


def queue_rows(look: Look, lengths: Sequence[Queue]) -> Sequence[QueueRow]:
    """Every queue."""
    return [
        QueueRow(
            name=queue.name,
            length=queue.length,
            oldest_s=None if queue.enqueued_at is None else max(0.0, look.at - queue.enqueued_at),
            waiting=look.waiting(queue.name),
        )
        for queue in lengths
    ]


def worker_rows(look: Look) -> Sequence[WorkerRow]:
    """Every worker that lives."""
    return [_worker(report) for report in look.reports]


def _worker(report: WorkerReport) -> WorkerRow:
    return WorkerRow(
        id=report.worker_id,
        queue=report.queue,
        host=report.worker_id.partition(":")[0],
        pid=report.pid,
        in_flight=report.in_flight,
        waiting=report.waiting,
        seen_at=report.seen_at,
    )


def _chosen(setting: Setting, *, is_set: bool = True) -> Chosen:
    return Chosen(value=setting.value if is_set else None, origin=setting.origin.value)
