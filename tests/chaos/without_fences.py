"""Imported by a worker, it takes this mechanism away: who was declared dead learns of it and records nothing."""

from dataclasses import replace
from typing import Any

from aegis_workers.state import liveness, scripts
from aegis_workers.state.liveness import Look

_look = liveness.look


async def _never_learn(*args: Any, **options: Any) -> Look:
    return replace(await _look(*args, **options), lives=True)


liveness.look = _never_learn
scripts.STORE_RESULT = "redis.call('SET', KEYS[1], ARGV[1]) redis.call('PUBLISH', KEYS[1], ARGV[1]) return 1"  # type: ignore[misc]
