"""Imported by a worker, it takes this mechanism away: a result waits for a Redis that does not take it."""

from aegis_workers.worker.results import Results


def _once(self: Results, key: bytes, value: str, expires_s: int) -> None:
    self._store(key, value, expires_s)


Results._store_some_time = _once  # type: ignore[method-assign]
