"""The results of a job as two files, in OpenAI's manner: the lines that have an answer, and the others."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from aegis_workers.admin.failures import UnknownFile
from aegis_workers.admin.streaming import pieces
from aegis_workers.errors import UnknownJob
from aegis_workers.jobs import manifest
from aegis_workers.jobs.desk import Desk
from aegis_workers.jobs.manifest import Kind
from aegis_workers.jobs.view import View
from aegis_workers.outcome import Status

_ID = re.compile(rf"file-({manifest.ID_PATTERN})-(output|errors)")
# A chat answer that was cut at its length is an answer; a document of which every answer was cut has none.
ANSWERED: Mapping[Kind, frozenset[Status]] = {
    Kind.EXTRACTION: frozenset({Status.OK, Status.EMPTY, Status.PARTIAL}),
    Kind.COMPLETIONS: frozenset({Status.OK, Status.EMPTY, Status.PARTIAL, Status.TRUNCATED}),
}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Items of a job: all of them, those whose line has an answer, and those whose line has none."""

    total: int
    completed: int
    failed: int

    @classmethod
    def of(cls, view: View) -> Self:
        """As far as results are there."""
        answered = ANSWERED[view.manifest.kind]
        completed = sum(count for status, count in view.items.items() if status in answered)
        return cls(total=view.manifest.items, completed=completed, failed=sum(view.items.values()) - completed)


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """One of the two files of a job, as far as it is there."""

    id: str
    view: View
    desk: Desk
    answered: bool

    @property
    def created_at(self) -> float:
        """When the job was submitted, in epoch seconds."""
        return self.view.manifest.created_at

    def read(self) -> Iterator[bytes]:
        """Its bytes, in pieces of whole lines. Raises what reading results raises."""
        return pieces(line + b"\n" for line in self._lines())

    def size_bytes(self) -> int:
        """Its size, for which all of it is read."""
        return sum(len(line) + 1 for line in self._lines())

    def _lines(self) -> Iterator[bytes]:
        statuses = ANSWERED[self.view.manifest.kind]
        return (line.body for line in self.desk.lines(self.view.id) if (line.status in statuses) is self.answered)


def output_id(job_id: str) -> str:
    """The file of the lines that have an answer."""
    return f"file-{job_id}-output"


def errors_id(job_id: str) -> str:
    """The file of the others."""
    return f"file-{job_id}-errors"


def is_named(file_id: str) -> bool:
    """Whether it is the id of results; there may be no such job."""
    return _ID.fullmatch(file_id) is not None


def find(file_id: str, desk: Desk) -> ResultFile:
    """The results of this id. Raises `UnknownFile` and `SpoolUnavailable`."""
    named = _ID.fullmatch(file_id)
    if named is None:
        raise UnknownFile("there is no file of such an id")
    try:
        view = desk.find(named[1])
    except UnknownJob as error:
        raise UnknownFile(str(error)) from None
    return ResultFile(id=file_id, view=view, desk=desk, answered=named[2] == "output")
