"""One look at what Redis knows of the system."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import redis

from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import engine_status, leader, memory, workers
from aegis_workers.state import mode as modes
from aegis_workers.state.engine_status import EngineStatus, Statuses
from aegis_workers.state.memory import Memory
from aegis_workers.state.mode import ModeReading
from aegis_workers.state.workers import WorkerReport

# The prober's lease outlives as many looks; then another worker should long have taken over.
_MISSED_LOOKS = 3


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was found at `at`, epoch seconds. `controller`: the name of the one that leads, None where none does."""

    at: float
    settings: Settings
    mode: ModeReading
    statuses: Statuses
    reports: Sequence[WorkerReport]
    memory: Memory | None
    controller: str | None

    @property
    def now_ms(self) -> int:
        """`at` in ms."""
        return int(self.at * 1000)

    def is_configured(self, engine: Engine) -> bool:
        """Whether there is such an engine: for this process, or for a worker that looks at it."""
        return bool(self.statuses[engine].replicas) or self.settings.model(engine) is not None

    def is_stale(self, engine: Engine) -> bool:
        """Whether so many looks were missed that what is on record may be wrong."""
        status: EngineStatus = self.statuses[engine]
        allowed_s = _MISSED_LOOKS * self.settings.probe_interval_s + self.settings.probe_timeout_s
        return status.probed_at is None or self.at - status.probed_at > allowed_s

    def in_flight(self, engine: Engine) -> int:
        """Calls that workers have there."""
        return sum(report.in_flight.get(engine, 0) for report in self.reports)

    def limit(self, engine: Engine) -> int:
        """Calls that it may have, over all of its replicas."""
        return self.settings.limit(engine) * max(1, len(self.statuses[engine].replicas))

    def tokens_per_s(self, engine: Engine) -> float | None:
        """Completion tokens a second of calls that have ended; None where none did lately."""
        found = [report.tokens_per_s[engine] for report in self.reports if engine in report.tokens_per_s]
        return sum(found) if found else None

    def waiting(self, queue: str | None = None) -> Mapping[str, int]:
        """Calls that workers hold and that wait, by what for; those of one queue, or all."""
        counts: dict[str, int] = {}
        for report in self.reports:
            for reason, count in report.waiting.items() if queue in {None, report.queue} else ():
                counts[reason] = counts.get(reason, 0) + count
        return counts


def take(client: redis.Redis, settings: Settings) -> Look:
    """The system now. Raises `RedisError`."""
    return Look(
        at=time.time(),
        settings=settings,
        mode=modes.read(client, settings.llm_engine_mode),
        statuses={engine: engine_status.read(client, engine) for engine in Engine},
        reports=workers.read_all(client),
        memory=memory.read(client),
        controller=leader.read(client),
    )
