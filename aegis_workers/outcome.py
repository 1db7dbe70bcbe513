"""How a call, a chunk or a document ended, in the words that results use."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """The outcome of a document, or of one of its chunks. Only `ok` and `empty` are complete answers.

    `ok`: data found. `empty`: the engine read the text and found nothing. `partial`: some chunks gave no answer.
    `invalid`: every answer was unreadable or broke the schema. `truncated`: every answer was cut at its length limit.
    `failed`: the engine refused, or could not answer. `cancelled`, `expired`: ended from outside, by a caller or by time.
    """

    OK = "ok"
    EMPTY = "empty"
    PARTIAL = "partial"
    INVALID = "invalid"
    TRUNCATED = "truncated"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why an outcome is not `ok`: one of the error classes, and what happened in words."""

    error_class: str
    message: str
