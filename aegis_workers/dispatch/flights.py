"""The calls of this process that are in flight."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import structlog

from aegis_workers.dispatch.lines import Admitted
from aegis_workers.engines.base import EngineClient
from aegis_workers.routing import Engine, Lane
from aegis_workers.state.engine_status import Statuses
from aegis_workers.state.slots import Ended, Give, Held

log = structlog.get_logger(__name__)


class Flights:
    """Who holds which slot."""

    def __init__(self) -> None:
        self._calls: defaultdict[tuple[EngineClient, Lane], dict[str, Admitted]] = defaultdict(dict)

    def __bool__(self) -> bool:
        return any(self._calls.values())

    def add(self, admitted: Admitted) -> None:
        """A call has its slot."""
        self._calls[admitted.client, admitted.lane][admitted.call_id] = admitted

    def remove(self, admitted: Admitted) -> None:
        """A call gives its slot back."""
        self._calls[admitted.client, admitted.lane].pop(admitted.call_id, None)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many there are, by engine; may be read from any thread."""
        counts: Counter[str] = Counter()
        for (client, _), calls in tuple(self._calls.items()):
            counts[client.engine.value] += len(calls)
        return dict(+counts)

    @property
    def leases(self) -> Held:
        """What is held in Redis for them."""
        return {(client.url, lane): tuple(calls) for (client, lane), calls in self._calls.items() if calls}

    def last_gives(self) -> Iterator[tuple[Engine, Give]]:
        """What is given back of calls that are being closed, when the process ends."""
        for (client, lane), calls in self._calls.items():
            for call_id in calls:
                yield client.engine, Give(call_id=call_id, lane=lane, url=client.url, ended=Ended.OTHER)

    def make_way(self, statuses: Statuses) -> None:
        """Closes the requests at each engine that is to be free of calls: their calls wait again."""
        for engine in Engine:
            if statuses[engine].is_closing and (count := self._close(engine)):
                log.warning("calls.closed", engine=engine.value, count=count, reason=statuses[engine].fence_reason)

    def _close(self, engine: Engine) -> int:
        at_engine = [call for (client, _), calls in self._calls.items() if client.engine is engine for call in calls.values()]
        still_open = [call for call in at_engine if not call.closed]
        for call in still_open:
            call.close()
        return len(still_open)
