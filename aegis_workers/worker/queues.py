"""Which queue a worker takes from: one. What it holds goes back there, and chat must not stand behind extraction."""

from collections.abc import Iterable

from aegis_workers.errors import ConfigurationError


def only_queue(names: Iterable[str]) -> str:
    """The one queue of a worker. Raises `ConfigurationError` where there are several, or none."""
    queues = sorted(names)
    if len(queues) == 1:
        return queues[0]
    found = f"not from {', '.join(queues)}" if queues else "this one has none"
    raise ConfigurationError(f"a worker takes from one queue, {found}: start one process for each, with -Q and its name")
