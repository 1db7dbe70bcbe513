"""What a worker process has and waits for, as it is when its metrics are asked for."""

from collections.abc import Iterator
from typing import Final

from aegis_workers.dispatch.admission import Admission
from aegis_workers.dispatch.lines import Awaited
from aegis_workers.metrics.metric import Kind, Metric, Values
from aegis_workers.metrics.read import Reading
from aegis_workers.routing import Engine, Lane
from aegis_workers.state.cached import Cached
from aegis_workers.state.mode import ModeReading

IN_FLIGHT: Final = Metric(
    name="aegis_worker_calls_in_flight",
    kind=Kind.GAUGE,
    help="Calls of this process that an engine has.",
    labels={"engine": tuple(Engine)},
)
WAITING: Final = Metric(
    name="aegis_worker_calls_waiting",
    kind=Kind.GAUGE,
    help="Calls of this process that wait for their slot, by what they wait for.",
    labels={"lane": tuple(Lane), "awaits": tuple(Awaited)},
)
MODE_AGE: Final = Metric(
    name="aegis_mode_cache_age_seconds",
    kind=Kind.GAUGE,
    help="How long ago the mode that this process remembers was asked of Redis; one without calls does not ask.",
)
MODE_STALE: Final = Metric(
    name="aegis_mode_cache_stale",
    kind=Kind.GAUGE,
    help="1 where Redis did not answer and the last known mode is used.",
)
ALL: Final = (IN_FLIGHT, WAITING, MODE_AGE, MODE_STALE)


def read(admission: Admission, mode: Cached[ModeReading]) -> Iterator[Reading]:
    """May be called from any thread."""
    in_flight, waiting, age_s = admission.in_flight, admission.awaited, mode.age_s
    yield Reading(metric=IN_FLIGHT, values={(engine,): in_flight.get(engine, 0) for engine in Engine})
    awaited: Values = {(lane.value, awaited.value): waiting.get((lane, awaited), 0) for lane in Lane for awaited in Awaited}
    yield Reading(metric=WAITING, values=awaited)
    yield Reading(metric=MODE_AGE, values={} if age_s is None else {(): age_s})
    yield Reading(metric=MODE_STALE, values={(): float(mode.last.stale)})
