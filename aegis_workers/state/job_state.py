"""How far a bulk job has come, as its hash in Redis says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import redis

from aegis_workers.outcome import Status
from aegis_workers.state import job_totals, keys
from aegis_workers.state.job_totals import Totals

_ITEMS: Final = "items:"


class State(StrEnum):
    """What may still happen to a job in Redis: `open` everything; `closing` nothing but collecting what is recorded."""

    OPEN = "open"
    CLOSING = "closing"


@dataclass(frozen=True, kw_only=True)
class JobState:
    """How far a job has come.

    `recorded`, `collected`: running numbers of the last outcome recorded and collected. `doubled`: second outcomes of a chunk,
    dropped. `fed`: the lowest chunk that was never fed. `out_chunks`, `out_bytes`: of batches fed and not finished. `held_bytes`:
    recorded and not collected. `committed_by`: the token of the last commit since the job was built; 0 before the first. `waits`:
    why nothing is fed, in words. `items` and `totals` count what is collected.
    """

    job_id: str
    state: State
    recorded: int = 0
    collected: int = 0
    doubled: int = 0
    fed: int = 0
    out_chunks: int = 0
    out_bytes: int = 0
    held_bytes: int = 0
    committed_by: int = 0
    engine: str | None = None
    waits: str | None = None
    items: Mapping[Status, int] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)


def read_now(client: redis.Redis, job_ids: Iterable[str]) -> Mapping[str, JobState]:
    """What `jobs.Jobs.read_many` returns, for threads and command lines."""
    asked = list(job_ids)
    with client.pipeline(transaction=False) as commands:
        for job_id in asked:
            commands.hgetall(keys.job(job_id))
        answers: Any = commands.execute()
    return decode(asked, answers)


def counts(items: Mapping[Status, int], totals: Totals) -> dict[str, int]:
    """Items and totals as fields of the hash."""
    return {**{f"{_ITEMS}{status}": count for status, count in items.items()}, **totals.fields()}


_NUMBERS: Final = ("recorded", "collected", "doubled", "fed", "out_chunks", "out_bytes", "held_bytes", "committed_by")


def decode(job_ids: Sequence[str], answers: Sequence[Mapping[str, str]]) -> dict[str, JobState]:
    """The states in the hashes that Redis answered with, by id; an empty one is no job."""
    found = zip(job_ids, answers, strict=True)
    return {job_id: _state(job_id, fields) for job_id, fields in found if "state" in fields}


def _state(job_id: str, fields: Mapping[str, str]) -> JobState:
    items = {name.removeprefix(_ITEMS): int(count) for name, count in fields.items() if name.startswith(_ITEMS)}
    numbers = {name: int(fields.get(name, 0)) for name in _NUMBERS}
    return JobState(
        job_id=job_id,
        state=State(fields["state"]),
        **numbers,
        engine=fields.get("engine"),
        waits=fields.get("waits"),
        items={Status(name): count for name, count in items.items()},
        totals=job_totals.from_fields(fields),
    )
