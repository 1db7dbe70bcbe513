"""Imported by a worker, it has a text with a mark in it kill the process that reads the answer to it."""

import os
import signal

from aegis_workers.completion import Completion
from aegis_workers.extraction import document
from aegis_workers.extraction.chunking import Chunk
from aegis_workers.extraction.merging import ChunkResult
from aegis_workers.extraction.schema import Schema

MARK = "Vesuvius"

_read = document.read


def _read_or_die(answer: Completion, chunk: Chunk, schema: Schema) -> ChunkResult:
    if MARK in chunk.text:
        os.kill(os.getpid(), signal.SIGKILL)
    return _read(answer, chunk, schema)


document.read = _read_or_die
