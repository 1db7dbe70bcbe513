"""What happens to calls, messages, engines and jobs, told as facts to whoever counts them: the one way from work to metrics.

The places of work call `tell` and know nothing of metrics. Nothing that a caller or an engine wrote is in a fact: each field is a
number or a word of a closed set. Facts are named tuples: four are told of each call, and a frozen dataclass takes three times as
long to make.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import NamedTuple

from aegis_workers.errors import ErrorClass
from aegis_workers.outcome import Status
from aegis_workers.routing import Because, Engine, TaskType


class Ending(StrEnum):
    """How a delivery of a task ended. `done`: it returned its result, whatever the status in it says."""

    DONE = "done"
    PUT_BACK = "put_back"
    REVOKED = "revoked"
    SET_ASIDE = "set_aside"
    EXPIRED = "expired"
    INTERRUPTED = "interrupted"
    REFUSED = "refused"
    FAILED = "failed"


class Killed(StrEnum):
    """What a poison message has killed once too often."""

    WORKER = "worker"
    ENGINE = "engine"


class CallAdmitted(NamedTuple):
    """A call got its slot, `waited_s` after it asked for it."""

    task_type: TaskType
    engine: Engine
    because: Because
    waited_s: float


class SlotsExchanged(NamedTuple):
    """One round trip to Redis for slots of an engine. `refusals`: why lanes got none, or not all they wanted."""

    engine: Engine
    took_s: float
    refusals: Collection[str]


class AttemptEnded(NamedTuple):
    """A request to an engine ended: `error` is None where it was answered."""

    task_type: TaskType
    engine: Engine
    error: ErrorClass | None
    took_s: float


class CallFinished(NamedTuple):
    """A call has its outcome; `engine` had it last."""

    task_type: TaskType
    engine: Engine
    status: Status
    prompt_tokens: int
    completion_tokens: int


class TaskBegun(NamedTuple):
    """A delivery of a task began. `again`: its message had been delivered before."""

    task: str
    again: bool


class TaskEnded(NamedTuple):
    """A delivery of a task ended."""

    task: str
    ending: Ending


class PoisonFound(NamedTuple):
    """A call, or the message that carries it, is set aside."""

    killed: Killed


class WorkerDied(NamedTuple):
    """This process declared a worker dead."""


class MessagesReturned(NamedTuple):
    """So many messages of a dead worker are in their queue again."""

    messages: int


class PhaseEntered(NamedTuple):
    """An engine's phase began. `before`: the one that ended, and how long it was, where this leader saw it begin."""

    engine: Engine
    phase: str
    before: str | None
    lasted_s: float | None


class SwitchFinished(NamedTuple):
    """Nothing moves any more, so long after the first engine began to."""

    took_s: float


class LeadershipChanged(NamedTuple):
    """This controller leads from now on, or does not."""

    leads: bool


class ChunksFed(NamedTuple):
    """So many chunks of jobs were put into the queue."""

    chunks: int


class ItemsCollected(NamedTuple):
    """Items of jobs have their line of results."""

    counts: Mapping[Status, int]


Fact = (
    CallAdmitted
    | SlotsExchanged
    | AttemptEnded
    | CallFinished
    | TaskBegun
    | TaskEnded
    | PoisonFound
    | WorkerDied
    | MessagesReturned
    | PhaseEntered
    | SwitchFinished
    | LeadershipChanged
    | ChunksFed
    | ItemsCollected
)
Listener = Callable[[Fact], None]

_listeners: list[Listener] = []


def tell(fact: Fact) -> None:
    """Let everybody know who listens; from any thread."""
    for listener in _listeners:
        listener(fact)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Facts of this process go to `listener` until the block ends. It must be quick, and must not raise."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
