"""A storm on a job: thousands of items on their way, a fault in the midst of them, and what came of every one of them."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from installation import eventually
from job_place import JobPlace, ids, lines, texts

from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.journal import State
from aegis_workers.routing import Engine
from aegis_workers.state import keys

ITEMS = 2000
AT_LEAST = 20
# What the engine may have in flight.
LIMIT = 64
# Chunks of one message.
BATCH = 32
# The calls with which the prober sees that an engine generates that came back, or of which Redis knows nothing any more.
PROOFS = 3
WITHIN_S = 90.0


@dataclass(frozen=True, kw_only=True)
class Aftermath:
    """What came of a storm on a job.

    `missing`: items without a line. `twice`: items with more than one. `failed`: lines without an answer. `extra`: calls that the
    engine was asked beyond one an item, and `held` how many the fault explains. `slots_left`: leases of slots when all was over.
    `over_s`: from the end of the fault until the job was completed.
    """

    items: int
    in_flight: int
    missing: int
    twice: int
    failed: int
    extra: int
    held: int
    slots_left: int
    over_s: float

    @property
    def holds(self) -> bool:
        """Whether every item has its one line, with no more calls than the fault explains, and enough were in flight."""
        kept = (self.missing, self.twice, self.failed, self.slots_left) == (0, 0, 0, 0)
        return kept and self.in_flight >= AT_LEAST and self.extra <= self.held

    def line(self, fault: str) -> str:
        """The line of the README's table."""
        extra = max(0, self.extra)
        found = (self.items, self.in_flight, self.missing, self.twice, extra, self.slots_left, f"{self.over_s:.1f}")
        return "| " + " | ".join(map(str, (fault, *found))) + " |"


@dataclass
class JobStorm:
    """A job that runs on vLLM's simulator. `asked_before`: the engine's calls before it."""

    here: JobPlace
    job: JobFolder
    asked_before: int
    in_flight: int = 0
    held: int = 0
    ended_at: float = 0.0

    def strike(self, fault: Callable[["JobStorm"], int]) -> None:
        """The fault, once there are lines and enough calls in flight; it returns how many calls it may cost when it is over."""
        self.here.await_lines(self.job, LIMIT)
        self.in_flight = self.await_in_flight()
        self.held = fault(self)
        self.ended_at = time.monotonic()

    def await_in_flight(self) -> int:
        """Returns when enough calls are in flight, by the engine's own count: how many."""
        return int(eventually(lambda: (now := self.here.place.in_flight(Engine.VLLM)) >= AT_LEAST and now))

    def aftermath(self) -> Aftermath:
        """What came of it, once the job is completed."""
        self.here.await_state(self.job, State.COMPLETED, within_s=WITHIN_S)
        over_s = time.monotonic() - self.ended_at
        eventually(lambda: self.here.place.in_flight(Engine.VLLM) == 0 and self._slots() == 0)
        written, found = lines(self.job), ids(lines(self.job))
        expected = [custom_id for custom_id, _ in texts(ITEMS)]
        assert found.keys() <= set(expected)
        return Aftermath(
            items=ITEMS,
            in_flight=self.in_flight,
            missing=sum(custom_id not in found for custom_id in expected),
            twice=sum(count > 1 for count in found.values()),
            failed=len(written) - Counter(line["status"] for line in written)["ok"],
            extra=self.here.asked() - self.asked_before - ITEMS,
            held=self.held,
            slots_left=self._slots(),
            over_s=over_s,
        )

    def _slots(self) -> int:
        redis = self.here.place.redis
        return sum(int(redis.zcard(name)) for name in list(redis.scan_iter(f"{keys.SLOTS_PREFIX}*")))


def begin(here: JobPlace) -> JobStorm:
    """Submit the job."""
    return JobStorm(here=here, asked_before=here.asked(), job=here.submit(texts(ITEMS)))


def lead(here: JobPlace, count: int = 1) -> None:
    """Controllers, of which the first leads and the others stand by."""
    for number in range(count):
        log = here.start_controller()
        word = "controller.stands_by" if number else "controller.leads"
        eventually(lambda: word in log.log_text())  # noqa: B023 - called at once


def storm_on(here: JobPlace, fault: Callable[[JobStorm], int], *, controllers: int = 1) -> Aftermath:
    """What came of a storm with this fault in its midst."""
    lead(here, controllers)
    begun = begin(here)
    begun.strike(fault)
    return begun.aftermath()


def holdings(here: JobPlace, pid: int) -> int:
    """The most calls that a worker can have begun: those of the messages that it holds."""
    names: Sequence[str] = [str(name) for name in here.place.redis.zrange(keys.ALIVE, 0, -1)]
    (worker_id,) = (name for name in names if f":{pid}:" in name)
    return BATCH * int(here.place.redis.llen(keys.held(worker_id)))
