"""Every Redis key. All begin with `aegis:`; the mode key's name and plain-text value are public."""

from typing import Final

from aegis_workers.routing import Engine

MODE: Final = "aegis:llm_engine_mode"
ENGINE_PREFIX: Final = "aegis:engine:"
WORKER_PREFIX: Final = "aegis:worker:"
PROBER: Final = "aegis:prober"
# Sorted set: the workers that live, each with the moment in ms at which it was last seen, by the clock of Redis.
ALIVE: Final = "aegis:alive"
# Hash: the queue of each worker that may hold messages: of those that live, and of the dead whose messages are not all put back.
WORKER_QUEUES: Final = "aegis:worker_queues"


def engine(name: Engine) -> str:
    """Hash: what the engine and each of its replicas were found to be."""
    return f"{ENGINE_PREFIX}{name}"


def worker(worker_id: str) -> str:
    """String with a TTL: that the worker lives, and what its calls do and wait for."""
    return f"{WORKER_PREFIX}{worker_id}"


def held(worker_id: str) -> str:
    """List: the messages that the worker holds, the latest first. A string once the worker is gone: nothing can be put there."""
    return f"aegis:held:{worker_id}"


def stream(task_id: str) -> str:
    """Stream with a TTL: the answer of one streamed chat as it is generated."""
    return f"aegis:stream:{task_id}"


def stream_writer(task_id: str) -> str:
    """String with a TTL: the delivery that may append to the stream."""
    return f"aegis:stream:{task_id}:writer"


def stream_reader(task_id: str) -> str:
    """String with a TTL: that somebody still reads the stream."""
    return f"aegis:stream:{task_id}:reader"
