"""One outcome of a document from the outcomes of its chunks. The order in which the chunks ended does not matter."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aegis_workers.errors import ErrorClass
from aegis_workers.extraction import entities, relations
from aegis_workers.extraction.chunking import Chunk
from aegis_workers.extraction.schema import Schema
from aegis_workers.outcome import Problem, Status


@dataclass(frozen=True, kw_only=True)
class ChunkResult:
    """How the call for one chunk ended. `data` where its status is `ok` or `empty`, `problem` where it is neither."""

    chunk: Chunk
    status: Status
    data: Mapping[str, Any] | None = None
    problem: Problem | None = None


@dataclass(frozen=True, kw_only=True)
class Merged:
    """How a document ended. `data` where any chunk gave an answer, `problem` where any did not; `chunks` in text order."""

    status: Status
    data: Mapping[str, Any] | None
    problem: Problem | None
    chunks: tuple[ChunkResult, ...]


_ANSWERED = frozenset({Status.OK, Status.EMPTY})
# Where no chunk gave an answer, and not all for the same reason: the one that says most about what to do, first.
_GRAVEST_FIRST = (
    Status.CANCELLED,
    Status.EXPIRED,
    Status.FAILED,
    Status.TRUNCATED,
    Status.INVALID,
)


def merge(results: Iterable[ChunkResult], schema: Schema) -> Merged:
    """The outcome of a document, from one result for each of its chunks.

    `partial` where some chunks gave an answer and others did not. Where none did, their common status, else the gravest. For a
    schema of the caller's, objects are merged property by property, arrays joined in text order (an item that another chunk has
    too is taken once), and of other values the first that is not null stays; what comes out must follow the schema again.
    """
    chunks = tuple(sorted(results, key=lambda result: result.chunk.index))
    answers = [(result.chunk, result.data) for result in chunks if result.status in _ANSWERED and result.data is not None]
    problem = _problem(chunks)
    if not answers and chunks:
        return Merged(status=_gravest(chunks), data=None, problem=problem, chunks=chunks)
    data = _default(answers) if schema.is_default else _callers([data for _, data in answers])
    broken = schema.explain(data) if len(answers) > 1 and not schema.is_default else None
    if broken:
        return Merged(status=Status.INVALID, data=None, problem=_does_not_merge(broken, len(answers)), chunks=chunks)
    answered = Status.EMPTY if is_empty(data) else Status.OK
    return Merged(status=Status.PARTIAL if problem else answered, data=data, problem=problem, chunks=chunks)


def is_empty(data: Any) -> bool:
    """Whether `data` says nothing: null, blank text, or only such things. A number, also 0, and a boolean say something."""
    match data:
        case None:
            return True
        case str():
            return not data.strip()
        case dict():
            return all(is_empty(value) for value in data.values())
        case list():
            return all(is_empty(value) for value in data)
        case _:
            return False


def _default(answers: Sequence[entities.Answer]) -> dict[str, Any]:
    found = entities.merge(answers)
    return {"entities": [dict(entity) for entity in found.merged.values()], "relations": relations.merge(answers, found)}


def _callers(answers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    if len(answers) == 1:
        return answers[0]
    return _merged_objects(answers)


def _merged_objects(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    keys = dict.fromkeys(key for value in values for key in value)
    return {key: _merged_values([value[key] for value in values if key in value]) for key in keys}


def _merged_values(values: Sequence[Any]) -> Any:
    """Values of the kind of the first that is not null; others of another kind are left out."""
    first = next((value for value in values if value is not None), None)
    match first:
        case dict():
            return _merged_objects([value for value in values if isinstance(value, dict)])
        case list():
            return _joined([value for value in values if isinstance(value, list)])
        case _:
            return first


def _joined(arrays: Sequence[Sequence[Any]]) -> list[Any]:
    """The items of all arrays, each as often as in the array that has it most often: chunks overlap, and see things twice."""
    joined: list[Any] = []
    taken: Counter[str] = Counter()
    for array in arrays:
        seen: Counter[str] = Counter()
        for item in array:
            canonical = json.dumps(item, sort_keys=True)
            seen[canonical] += 1
            if seen[canonical] > taken[canonical]:
                taken[canonical] += 1
                joined.append(item)
    return joined


def _gravest(chunks: Sequence[ChunkResult]) -> Status:
    statuses = {result.status for result in chunks}
    return next((status for status in _GRAVEST_FIRST if status in statuses), Status.FAILED)


def _problem(chunks: Sequence[ChunkResult]) -> Problem | None:
    """The commonest problem of those chunks that gave no answer, the earliest of several, and how many they are."""
    problems = [result.problem or _UNSAID for result in chunks if result.status not in _ANSWERED]
    if not problems:
        return None
    commonest = Counter(problems).most_common(1)[0][0]
    if len(chunks) == 1:
        return commonest
    message = f"{len(problems)} of {len(chunks)} chunks gave no answer; most often: {commonest.message}"
    return Problem(error_class=commonest.error_class, message=message)


_UNSAID = Problem(error_class=ErrorClass.TRANSIENT, message="no reason was given")


def _does_not_merge(broken: str, answers: int) -> Problem:
    return Problem(
        error_class=ErrorClass.CONTENT,
        message=f"{answers} chunks answered rightly, but their merged data {broken}: "
        "loosen that rule of the schema, or raise AEGIS_CHUNK_TOKENS so that the text fits one chunk",
    )
