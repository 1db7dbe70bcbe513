"""Every Redis key. All begin with `aegis:`; the mode key's name and plain-text value are public."""

from typing import Final

from aegis_workers.routing import Engine, Lane

MODE: Final = "aegis:llm_engine_mode"
# String: the last word in the mode key that was a mode, in force while the key holds another one. No push tells of it.
LAST_VALID_MODE: Final = "aegis:last_valid_mode"
# Stream: the last switches of the mode, each with who made it and what it replaced, and what the controller says of their phases.
SWITCHES: Final = "aegis:switches"
ENGINE_PREFIX: Final = "aegis:engine:"
WORKER_PREFIX: Final = "aegis:worker:"
# Sorted set: the workers that have said what they do, each with the moment of the last time in epoch seconds by its own clock.
# What there is of them is found by it: Redis may hold the results of many tasks besides.
WORKERS: Final = "aegis:workers"
PROBER: Final = "aegis:prober"
# Sorted set: the workers that live, each with the moment in ms at which it was last seen, by the clock of Redis.
ALIVE: Final = "aegis:alive"
# Hash: the queue of each worker that may hold messages: of those that live, and of the dead whose messages are not all put back.
WORKER_QUEUES: Final = "aegis:worker_queues"
CANCELLED_PREFIX: Final = "aegis:cancelled:"
# Never there: what asks whether Redis takes anything in names it.
NOTHING: Final = "aegis:nothing"


def engine(name: Engine) -> str:
    """Hash: what the engine and each of its replicas were found to be, and what the leading controller makes of the engine."""
    return f"{ENGINE_PREFIX}{name}"


def worker(worker_id: str) -> str:
    """String with a TTL: that the worker lives, and what its calls do and wait for."""
    return f"{WORKER_PREFIX}{worker_id}"


def held(worker_id: str) -> str:
    """List: the messages that the worker holds, the latest first. A string once the worker is gone: nothing can be put there."""
    return f"aegis:held:{worker_id}"


def cancelled(task_id: str) -> str:
    """String with a TTL: that the task's caller revoked it, `revoke` or `terminate`. Public: anybody may set it."""
    return f"{CANCELLED_PREFIX}{task_id}"


def stream(task_id: str) -> str:
    """Stream with a TTL: the answer of one streamed chat as it is generated."""
    return f"aegis:stream:{task_id}"


def stream_writer(task_id: str) -> str:
    """String with a TTL: the delivery that may append to the stream."""
    return f"aegis:stream:{task_id}:writer"


def stream_reader(task_id: str) -> str:
    """String with a TTL: that somebody still reads the stream."""
    return f"aegis:stream:{task_id}:reader"


SLOTS_PREFIX: Final = "aegis:slots:"
FREED_PREFIX: Final = "aegis:freed:"


def slots(url: str, lane: Lane) -> str:
    """Sorted set: the leases of a replica's slots that calls of this lane have, by the end of each in ms of Redis's clock."""
    return f"{SLOTS_PREFIX}{url}:{lane}"


def demand(engine: Engine, lane: Lane) -> str:
    """String with a TTL: the worker that waits longest for a slot, and until when that is believed."""
    return f"aegis:demand:{engine}:{lane}"


def freed(engine: Engine) -> str:
    """String with a TTL: written when a slot was given back that another worker waits for, for the push that this causes."""
    return f"{FREED_PREFIX}{engine}"


# Fields of the engine's hash that the leading controller writes: what it makes of the engine as JSON, "1" while nothing is
# admitted to it, and a number that is higher after each change of that.
CONTROL_FIELD: Final = "control"
FENCE_FIELD: Final = "fence"
EPOCH_FIELD: Final = "epoch"
# Field of the engine's hash: when an operator last chose a mode, in epoch seconds of Redis's clock.
ASKED_FIELD: Final = "asked"


def breaker_field(url: str) -> str:
    """Field of the engine's hash: the breaker of one replica. It lies there so that whoever routes has it with the state."""
    return f"breaker:{url}"


def answers(task_id: str) -> str:
    """Hash with a TTL: what the calls of a task with several have come to, while the task is not done."""
    return f"aegis:answers:{task_id}"


# String with a TTL: the one item that runs alone because it may be what kills workers or engines.
SUSPECT: Final = "aegis:suspect"
# Hash: what was set aside because it did, by task id.
ASIDE: Final = "aegis:aside"

# String with a TTL: `<token>:<name>` of the one controller that leads.
CONTROLLER: Final = "aegis:controller"
# String: the last token that a leader was given; the next one is higher.
CONTROLLER_TOKEN: Final = "aegis:controller:token"  # noqa: S105 - the name of a key
# String with a TTL: the memory that the leading controller has measured, as JSON.
MEMORY: Final = "aegis:memory"
# Set: the ids of the jobs that are in Redis.
JOBS: Final = "aegis:jobs"


def job(job_id: str) -> str:
    """Hash: how far the job has come, what of it is in motion, and its counts."""
    return f"aegis:job:{job_id}"


def job_done(job_id: str) -> str:
    """Bitmap: the chunks that have an outcome, bit n (from the left, as SETBIT counts) for chunk n."""
    return f"aegis:job:{job_id}:done"


def job_outcomes(job_id: str) -> str:
    """Stream: the outcomes that are not collected, by their running number: an entry's id is `<number>-<time in µs>`."""
    return f"aegis:job:{job_id}:outcomes"


def job_batches(job_id: str) -> str:
    """Hash: the micro-batches that were fed and are not finished, each by its id with the chunks that it has."""
    return f"aegis:job:{job_id}:batches"
