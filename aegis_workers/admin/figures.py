"""What the system is as a whole, for Prometheus: shown by the admin API alone, so that no worker repeats it."""

from typing import Final

from aegis_workers.celery import QUEUES
from aegis_workers.engines.base import Readiness
from aegis_workers.jobs.journal import State
from aegis_workers.metrics.metric import Kind, Metric
from aegis_workers.routing import Engine, Mode
from aegis_workers.state.breaker import Stand
from aegis_workers.state.engine_control import Phase

NOT_CONFIGURED: Final = "not_configured"
STATES: Final = (*Readiness, NOT_CONFIGURED)

_ENGINE: Final = {"engine": tuple(Engine)}
_QUEUE: Final = {"queue": QUEUES}


def _gauge(name: str, help_: str, **labels: tuple[str, ...]) -> Metric:
    return Metric(name=name, kind=Kind.GAUGE, help=help_, labels=labels)


REDIS_UP: Final = _gauge("aegis_redis_up", "1 where Redis answered this scrape; else nothing that is read from it is shown.")
REDIS_USED: Final = _gauge("aegis_redis_memory_used_bytes", "Memory that Redis uses.")
REDIS_MAX: Final = _gauge("aegis_redis_memory_max_bytes", "Its maxmemory; 0 where it has none.")
FOLDER_UP: Final = _gauge("aegis_data_folder_up", "1 where the jobs in the data folder could be read for this scrape.")

MODE: Final = _gauge("aegis_mode", "1 for the engine mode in force.", mode=tuple(Mode))
MODE_PROBLEM: Final = _gauge("aegis_mode_problem", "1 where the mode key is missing or holds no mode.")
CONTROLLER: Final = _gauge("aegis_controllers_leading", "1 while a controller leads.")

ENGINE_STATE: Final = _gauge("aegis_engine_state", "1 for what the engine was last found to be.", **_ENGINE, state=STATES)
ENGINE_PHASE: Final = _gauge(
    "aegis_engine_phase", "1 for the phase in which the controller leads the engine.", **_ENGINE, phase=tuple(Phase)
)
FENCED: Final = _gauge("aegis_engine_fenced", "1 while no call is admitted to the engine.", **_ENGINE)
PROBE_AGE: Final = _gauge("aegis_engine_probe_age_seconds", "How long ago a worker last looked at the engine.", **_ENGINE)
IN_FLIGHT: Final = _gauge("aegis_engine_calls_in_flight", "Slots that are taken, over all workers.", **_ENGINE)
LIMIT: Final = _gauge("aegis_engine_calls_limit", "Slots of all replicas, by the settings of the admin API.", **_ENGINE)
BREAKERS: Final = _gauge(
    "aegis_engine_breakers",
    "Replicas by their breaker: closed, open, due for a trial, or trial.",
    **_ENGINE,
    stand=tuple(Stand),
)

WORKERS: Final = _gauge("aegis_workers", "Workers that live.", **_QUEUE)
QUEUED: Final = _gauge("aegis_queue_messages", "Messages that no worker has yet.", **_QUEUE)
OLDEST: Final = _gauge(
    "aegis_queue_oldest_seconds", "How long the message that is next has waited; 0 for an empty queue.", **_QUEUE
)
ASIDE: Final = _gauge("aegis_calls_set_aside", "Calls that are set aside because they kill what runs them.")

JOBS: Final = _gauge("aegis_jobs", "Jobs in the data folder, ended ones until they are deleted.", state=tuple(State))
CHUNKS_OUT: Final = _gauge("aegis_job_chunks_in_motion", "Chunks of jobs that were fed and have no outcome yet.")
UNCOLLECTED: Final = _gauge("aegis_job_outcomes_uncollected", "Outcomes in Redis that are not in a job's results yet.")

OF_ENGINES: Final = (ENGINE_STATE, ENGINE_PHASE, FENCED, PROBE_AGE, IN_FLIGHT, LIMIT, BREAKERS)
_OF_REDIS: Final = (REDIS_UP, REDIS_USED, REDIS_MAX, MODE, MODE_PROBLEM, CONTROLLER, WORKERS, QUEUED, OLDEST, ASIDE)
_OF_JOBS: Final = (FOLDER_UP, JOBS, CHUNKS_OUT, UNCOLLECTED)
ALL: Final = (*_OF_REDIS, *OF_ENGINES, *_OF_JOBS)
