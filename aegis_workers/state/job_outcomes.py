"""What a chunk of a bulk job came to, on its way through Redis from the worker to the collector."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from aegis_workers.outcome import Status
from aegis_workers.state import job_totals
from aegis_workers.state.job_totals import Totals

# What a script takes.
Word = int | str | bytes


class Kind(StrEnum):
    """What an outcome holds: a whole result line, or the piece of an item that has several chunks."""

    LINE = "l"
    PIECE = "p"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a chunk came to. `body`: JSON, as UTF-8."""

    chunk: int
    kind: Kind
    status: Status
    body: bytes
    totals: Totals = field(default_factory=Totals)


@dataclass(frozen=True, kw_only=True)
class Recorded(Outcome):
    """An outcome that waits to be collected under its running number.

    `entry_id` is its own, even where a Redis that lost its last writes gives the number again. `size_bytes`: what a commit gives
    back for it.
    """

    number: int
    entry_id: str
    size_bytes: int


def words(outcome: Outcome) -> tuple[Word, ...]:
    """An outcome as the scripts take it."""
    return outcome.chunk, outcome.kind.value, outcome.status.value, outcome.body, job_totals.encode(outcome.totals)


def recorded(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Recorded:
    """An entry of the stream."""
    return Recorded(
        number=int(entry_id.partition(b"-")[0]),
        entry_id=entry_id.decode(),
        chunk=int(fields[b"c"]),
        kind=Kind(fields[b"k"].decode()),
        status=Status(fields[b"s"].decode()),
        body=fields[b"b"],
        totals=job_totals.decode(fields[b"t"]),
        size_bytes=len(fields[b"b"]) + len(fields[b"t"]),
    )
