"""Imported by a worker, it takes this mechanism away: a message lies with its worker from the moment that it leaves the queue."""

from collections.abc import Mapping
from typing import Any

from aegis_workers.state import held
from aegis_workers.state.held import Settlement
from aegis_workers.worker.holdings import Holdings

_take = Holdings.take


def _take_off(self: Holdings, raw: bytes) -> Mapping[str, Any] | None:
    held.settle(self._client, self.holder, Settlement(raw=raw))
    return _take(self, raw)


Holdings.take = _take_off  # type: ignore[method-assign]
