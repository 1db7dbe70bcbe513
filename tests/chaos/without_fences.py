"""Imported by a worker, it takes this mechanism away: who was declared dead records nothing, and the first outcome stays."""

from aegis_workers.state import scripts
from aegis_workers.worker import rebirth
from aegis_workers.worker.holdings import Holdings


def _go_on(*_: object) -> None:
    """It does not know that it was declared dead."""


scripts.STORE_RESULT = "redis.call('SET', KEYS[1], ARGV[1]) redis.call('PUBLISH', KEYS[1], ARGV[1]) return 1"  # type: ignore[misc]
rebirth.begin = _go_on
Holdings.fence = _go_on  # type: ignore[method-assign,assignment]
