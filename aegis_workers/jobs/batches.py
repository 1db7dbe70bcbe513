"""Micro-batches: chunks of one job in one message, as Celery would send it, built for speed.

Each chunk is turned into JSON once.
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from aegis_workers.jobs import message
from aegis_workers.jobs.bitmap import Range, ranges_of
from aegis_workers.jobs.items import ItemChunk
from aegis_workers.jobs.manifest import Manifest
from aegis_workers.jobs.window import Load
from aegis_workers.state import jobs

VERSION: Final = 1
MAX_CHUNKS: Final = 32
MAX_BYTES: Final = 256_000

# What Celery's body has beside the arguments: nothing follows a batch.
_EMBEDDED: Final = b',{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'
# More than an envelope takes beside its body and what is in it twice.
_ENVELOPE_BYTES: Final = 1200


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A chunk that is to be called: its number in the job, and what a worker needs of it, as JSON."""

    chunk: int
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Chunks that travel together, in ascending order."""

    pieces: Sequence[Piece]

    @cached_property
    def load(self) -> Load:
        """What it takes of the window."""
        size_bytes = sum(len(piece.body) + 1 for piece in self.pieces)
        return Load(calls=len(self.pieces), size_bytes=size_bytes * 4 // 3 + _ENVELOPE_BYTES)

    @property
    def ranges(self) -> list[Range]:
        """The numbers of its chunks."""
        return ranges_of(piece.chunk for piece in self.pieces)

    @property
    def after(self) -> int:
        """The number behind its last chunk."""
        return self.pieces[-1].chunk + 1


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What every message of a job says alike: all arguments but the chunks."""

    job_id: str
    arguments: Mapping[str, Any]

    def to_feed(self, batch: Batch, *, engine: str | None, now: float) -> jobs.Batch:
        """The batch as it is fed, under an id of its own. `engine`: the one that the job keeps to; `now`: epoch seconds."""
        batch_id = f"{self.job_id}.{uuid.uuid4().hex}"
        head = _json({"version": VERSION, "job": self.job_id, **self.arguments, "engine": engine})
        body = b'[[],%b,"chunks":[%b]}%b' % (head[:-1], b",".join(piece.body for piece in batch.pieces), _EMBEDDED)
        return jobs.Batch(batch_id=batch_id, chunks=batch.ranges, message=message.enveloped(batch_id, body, now))


def contents(manifest: Manifest) -> Contents:
    """What the messages of this job say alike."""
    options = None if manifest.options is None else manifest.options.model_dump(exclude_none=True)
    arguments = {
        "kind": manifest.kind.value,
        "schema": manifest.json_schema,
        "options": options or {},
        "expires_at": manifest.expires_at,
    }
    return Contents(job_id=manifest.id, arguments=arguments)


def piece(chunk: ItemChunk) -> Piece:
    """What a worker needs of the chunk."""
    return Piece(chunk=chunk.number, body=_json(chunk.to_message()))


def chunks_in(window_calls: int) -> int:
    """How many chunks a batch may have, so that a small window holds several."""
    return max(1, min(MAX_CHUNKS, window_calls // 4))


def packed(pieces: Iterable[Piece], *, max_chunks: int = MAX_CHUNKS) -> Iterator[Batch]:
    """The pieces in batches of at most `max_chunks` chunks and 256 kB; a larger chunk travels alone."""
    batch: list[Piece] = []
    size_bytes = 0
    for one in pieces:
        if batch and (len(batch) == max_chunks or size_bytes + len(one.body) > MAX_BYTES):
            yield Batch(pieces=batch)
            batch, size_bytes = [], 0
        batch.append(one)
        size_bytes += len(one.body)
    if batch:
        yield Batch(pieces=batch)


# Made once: making one takes as long as a short text.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _json(value: Any) -> bytes:
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only carry escaped
        return json.dumps(value, separators=(",", ":")).encode()
