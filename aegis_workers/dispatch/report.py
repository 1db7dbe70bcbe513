"""What a caller gets of a document: one form, whoever read it and in however many messages.

Chunks of a document that were read apart travel as pieces, which say all that the document's line needs beside its text.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from aegis_workers.dispatch.inputs import ExtractionPlan
from aegis_workers.dispatch.reading import ChunkRead
from aegis_workers.extraction import chunking, merging
from aegis_workers.extraction.chunking import Chunk
from aegis_workers.extraction.merging import ChunkResult
from aegis_workers.extraction.schema import Schema
from aegis_workers.outcome import Problem, Status
from aegis_workers.routing import Engine, Mode

# What `engine` and `mode` of a result say when the mode was switched while the document was read; `calls` has each one's own.
MIXED = "mixed"
# The class of the error that time was up.
DEADLINE = "deadline"

Line = dict[str, Any]


class Named(Protocol):
    """An item, as its caller named it."""

    @property
    def custom_id(self) -> str: ...

    @property
    def metadata(self) -> Mapping[str, Any] | None: ...


def result(reads: Sequence[ChunkRead], schema: Schema) -> Line:
    """The result of a document, from one read for each of its chunks, in text order."""
    merged = merging.merge([read.result for read in reads], schema)
    return {
        "status": merged.status.value,
        "data": merged.data,
        "error": error(merged.problem),
        "engine": _common(read.engine for read in reads),
        "mode": _common(read.mode for read in reads),
        "attempts": sum(read.attempts for read in reads),
        "usage": _usage(reads),
        "calls": [_call(read) for read in reads],
    }


def unanswered(status: Status, problem: Problem | None) -> Line:
    """The result of a document for which no engine was ever asked."""
    return {
        "status": status.value,
        "data": None,
        "error": error(problem),
        "engine": None,
        "mode": None,
        "attempts": 0,
        "usage": _usage([]),
        "calls": [],
    }


def line(item: Named, found: Line) -> Line:
    """The line of an item whose result is `found`."""
    metadata = {} if item.metadata is None else {"metadata": item.metadata}
    return {"custom_id": item.custom_id, **found, **metadata}


def line_of(item: Named, pieces: Iterable[bytes | str], text: str, plan: ExtractionPlan) -> Line:
    """The line of an item from the pieces of its chunks, in any order: what one task that read all of `text` would have said.

    Raises `ValueError` unless there is one piece for each chunk that `plan` cuts the text into.
    """
    chunks = chunking.split(text, max_tokens=plan.chunk_tokens, overlap_tokens=plan.chunk_overlap_tokens)
    found = {piece["index"]: piece for piece in map(json.loads, pieces)}
    if found.keys() != set(range(len(chunks))):
        raise ValueError(f"pieces of {len(found)} chunks are no document of {len(chunks)}")
    return line(item, result([_read(chunk, found[chunk.index]) for chunk in chunks], plan.schema))


def encode_piece(read: ChunkRead) -> bytes:
    """What `line_of` needs of a chunk, beside the text."""
    piece = {
        "index": read.result.chunk.index,
        "status": read.result.status.value,
        "data": read.result.data,
        "error": error(read.result.problem),
        "engine": read.engine and read.engine.value,
        "mode": read.mode and read.mode.value,
        "reason": read.reason,
        "attempts": read.attempts,
        "usage": _usage([read]),
        "engine_s": round(read.engine_s, 6),
    }
    return encode(piece)


def decode_piece(piece: bytes | str, chunk: Chunk) -> ChunkRead:
    """The read that `encode_piece` was given, of this chunk."""
    return _read(chunk, json.loads(piece))


encode_text = partial(json.dumps, ensure_ascii=False, separators=(",", ":"))


def encode(value: Mapping[str, Any]) -> bytes:
    """A line or a piece as it travels and is kept: JSON without spaces, in UTF-8."""
    return encode_text(value).encode()


def error(problem: Problem | None) -> dict[str, str] | None:
    """A problem, as results have it."""
    return None if problem is None else {"class": str(problem.error_class), "message": problem.message}


def _read(chunk: Chunk, piece: Mapping[str, Any]) -> ChunkRead:
    said, engine, mode = piece["error"], piece["engine"], piece["mode"]
    problem = said and Problem(error_class=said["class"], message=said["message"])
    return ChunkRead(
        result=ChunkResult(chunk=chunk, status=Status(piece["status"]), data=piece["data"], problem=problem),
        engine=engine and Engine(engine),
        mode=mode and Mode(mode),
        reason=piece["reason"],
        attempts=piece["attempts"],
        engine_s=piece["engine_s"],
        **piece["usage"],
    )


def _call(read: ChunkRead) -> dict[str, Any]:
    return {
        "start": read.result.chunk.start,
        "end": read.result.chunk.end,
        "status": read.result.status.value,
        "error": error(read.result.problem),
        "engine": read.engine and read.engine.value,
        "mode": read.mode and read.mode.value,
        "reason": read.reason,
        "attempts": read.attempts,
    }


def _common(values: Iterable[str | None]) -> str | None:
    """What all say that say anything."""
    names = Counter(str(value) for value in values if value is not None)
    return MIXED if len(names) > 1 else next(iter(names), None)


def _usage(reads: Sequence[ChunkRead]) -> dict[str, int]:
    """Tokens of the answers that were taken, by the engines' own count; what an engine did not count is missing from it."""
    return {
        "prompt_tokens": sum(read.prompt_tokens for read in reads),
        "completion_tokens": sum(read.completion_tokens for read in reads),
    }
