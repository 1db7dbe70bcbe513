"""Imported by a worker, it takes this mechanism away for the message at which the worker is killed: it lies in no list of it."""

import killed_in_the_gap

from aegis_workers.state import held
from aegis_workers.state.held import Settlement
from aegis_workers.worker.holdings import Holdings


def _take_off(holdings: Holdings, raw: bytes) -> None:
    held.settle(holdings._client, holdings.holder, Settlement(raw=raw))


killed_in_the_gap.last_act = _take_off
