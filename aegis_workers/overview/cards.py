"""The engines as people look at them: one card each, and whether there is room for both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aegis_workers.controller import wants
from aegis_workers.overview import health, prospect
from aegis_workers.overview.health import Health, Standing, Word
from aegis_workers.overview.look import Look
from aegis_workers.routing import Engine, Mode, TaskType
from aegis_workers.state.engine_control import Phase
from aegis_workers.state.engine_status import ReplicaStatus


@dataclass(frozen=True, kw_only=True)
class ReplicaCard:
    """One replica: as it was found, and what its breaker lets through (`closed` is the good state)."""

    url: str
    state: str
    reason: str
    loaded: bool
    breaker: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """One engine. Times in epoch seconds; `limit`: calls that may be in flight, over all replicas.

    `health` and `word` say the same to programs and to people; `reason`: why it is not `ok`, None where it is. `serves`: the task
    types that are routed there now. `tokens_per_s`: of calls that ended lately, None where none did. `phase` and what follows of
    it: by the controller's word, None where none ever led. `memory_gb`: what it takes, by the
    settings. `retry_at`: no start before it.
    """

    label: str
    health: Health
    word: Word
    reason: str | None
    since: float | None
    in_flight: int
    limit: int
    tokens_per_s: float | None
    serves: Sequence[TaskType]
    phase: Phase | None
    phase_since: float | None
    phase_reason: str | None
    fenced: bool
    driver: str
    origin: str | None
    failures: int
    retry_at: float | None
    memory_gb: float
    replicas: Sequence[ReplicaCard]


@dataclass(frozen=True, kw_only=True)
class Auto:
    """Whether mode auto would have both engines; `reason`: why not, in words."""

    available: bool
    reason: str | None = None


def cards(look: Look) -> Mapping[Engine, Card]:
    """Every engine."""
    return {engine: _card(look, engine, standing) for engine, standing in health.standings(look).items()}


def _card(look: Look, engine: Engine, standing: Standing) -> Card:
    status, control, settings = look.statuses[engine], look.statuses[engine].control, look.settings
    return Card(
        label=engine.label,
        health=standing.health,
        word=standing.word,
        reason=standing.reason,
        since=status.since,
        in_flight=look.in_flight(engine),
        limit=look.limit(engine),
        tokens_per_s=None if standing.tokens_per_s is None else round(standing.tokens_per_s, 1),
        serves=standing.serves,
        phase=None if control is None else control.phase,
        phase_since=None if control is None else control.since,
        phase_reason=None if control is None else control.reason,
        fenced=status.fenced,
        driver=settings.driver(engine) if control is None else control.driver,
        origin=None if control is None else control.origin or None,
        failures=control.failures if control else 0,
        retry_at=None if control is None else control.retry_at,
        memory_gb=settings.memory_gb(engine),
        replicas=[_replica(look, replica) for replica in status.replicas],
    )


def _replica(look: Look, replica: ReplicaStatus) -> ReplicaCard:
    return ReplicaCard(
        url=replica.url,
        state=replica.state.value,
        reason=replica.reason or replica.breaker.explain(look.now_ms),
        loaded=replica.loaded,
        breaker=replica.breaker.stands(look.now_ms).value,
    )


def auto(look: Look, *, queued: int) -> Auto:
    """By what is known now; `queued`: messages in the queue of extraction."""
    for engine in Engine:
        if not look.is_configured(engine):
            return Auto(available=False, reason=f"{engine.label} is not configured: set AEGIS_{engine.upper()}_MODEL")
    view = prospect.view(look, Mode.AUTO, queued=queued)
    if not wants.exclusive(view):
        return Auto(available=True)
    left_out = wants.decide(view)[Engine.VLLM]
    return Auto(available=False, reason=left_out.reason)
