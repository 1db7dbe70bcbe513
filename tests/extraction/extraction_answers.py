"""Answers of an engine, as short as a test can say them."""

import json
from collections.abc import Iterable
from typing import Any

from aegis_workers.completion import Completion, Finish
from aegis_workers.extraction import document, schema
from aegis_workers.extraction.chunking import Chunk
from aegis_workers.extraction.merging import ChunkResult
from aegis_workers.outcome import Problem, Status

DEFAULT = schema.compile(None)


def chunk(text: str, *, index: int = 0, start: int = 0) -> Chunk:
    return Chunk(index=index, start=start, end=start + len(text), text=text)


def entity(name: str, *mentions: str, kind: str = "thing", **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "description": "", "confidence": 0.5, "mentions": list(mentions)} | fields


def relation(source: str, verb: str, target: str, **fields: Any) -> dict[str, Any]:
    return {"source": source, "relation": verb, "target": target, "description": "", "strength": 5} | fields


def completion(entities: Iterable[dict[str, Any]] = (), relations: Iterable[dict[str, Any]] = ()) -> Completion:
    return said({"entities": list(entities), "relations": list(relations)})


def said(data: Any) -> Completion:
    return Completion(text=json.dumps(data, ensure_ascii=False), finish=Finish.STOP)


def read(where: Chunk, entities: Iterable[dict[str, Any]] = (), relations: Iterable[dict[str, Any]] = ()) -> ChunkResult:
    return document.read(completion(entities, relations), where, DEFAULT)


def failed(where: Chunk, status: Status = Status.FAILED, message: str = "gone") -> ChunkResult:
    return ChunkResult(chunk=where, status=status, problem=Problem(error_class="transient", message=message))


def spans(found: dict[str, Any]) -> list[tuple[int, int]]:
    return [(mention["start"], mention["end"]) for mention in found["mentions"] if "start" in mention]
