"""What an engine's answer for one chunk means."""

from aegis_workers.completion import Completion, Finish
from aegis_workers.errors import ErrorClass
from aegis_workers.extraction import grounding, parsing, prompt
from aegis_workers.extraction.chunking import Chunk
from aegis_workers.extraction.merging import ChunkResult, is_empty
from aegis_workers.extraction.schema import Schema
from aegis_workers.outcome import Problem, Status


def read(answer: Completion, chunk: Chunk, schema: Schema) -> ChunkResult:
    """The result of `chunk`: `ok` or `empty` with data that follows the schema, else `truncated` or `invalid` with the reason.

    The default schema's mentions come back as spans of the document; a caller's data comes back as the engine gave it, but for
    marks that the prompt had to write otherwise.
    """
    if answer.finish is Finish.LENGTH:
        return _without(
            chunk, Status.TRUNCATED, "the answer was cut at its length limit: raise max_tokens, or use smaller chunks"
        )
    parsed = parsing.parse(answer.text, schema)
    if isinstance(parsed, parsing.Unreadable):
        return _without(chunk, Status.INVALID, parsed.problem)
    said = prompt.restored(parsed.data, chunk.text)
    data = grounding.ground(said, chunk) if schema.is_default else said
    return ChunkResult(chunk=chunk, status=Status.EMPTY if is_empty(data) else Status.OK, data=data)


def _without(chunk: Chunk, status: Status, message: str) -> ChunkResult:
    return ChunkResult(chunk=chunk, status=status, problem=Problem(error_class=ErrorClass.CONTENT, message=message))
