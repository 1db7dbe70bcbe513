"""What a job is: written once at its submission, and never changed."""

import os
import time
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from aegis_workers.dispatch.inputs import ExtractionOptions

# OpenAI's bounds on the metadata of a batch.
MAX_METADATA = 16
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512
# What a stranger's file system takes as a name in any case, and no path can be hidden in.
ID_PATTERN = r"job_[0-9a-f]{24}"


class Kind(StrEnum):
    """What its items are: texts to extract from, or requests of OpenAI's chat completions."""

    EXTRACTION = "extraction"
    COMPLETIONS = "completions"


class EnginePolicy(StrEnum):
    """Each call follows the mode, or the whole job stays on the engine that it started on."""

    PER_CALL = "per-call"
    PER_JOB = "per-job"


class Origin(StrEnum):
    """Which way a job came."""

    PATH = "path"
    PYTHON = "python"
    HTTP = "http"


class Manifest(BaseModel):
    """A job as it was submitted. Times are epoch seconds; `json_schema` is called `schema` in the file.

    `items` have `chunks` in all, and their lines take `size_bytes`; `chunk_tokens` and its like are the numbers that every
    text of the job is cut by, wherever that is done. `options` is None for completions. Feeding stops where the share
    `stop_share` of the last `stop_window` items failed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, allow_inf_nan=False)

    id: str = Field(pattern=f"^{ID_PATTERN}$")
    kind: Kind
    created_at: float
    expires_at: float
    key: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    options: ExtractionOptions | None = None
    chunk_tokens: int
    chunk_overlap_tokens: int
    policy: EnginePolicy = EnginePolicy.PER_CALL
    stop_share: float = Field(0.5, ge=0, le=1)
    stop_window: int = Field(100, ge=1)
    items: int = Field(ge=1)
    chunks: int = Field(ge=1)
    size_bytes: int = Field(ge=1)
    retry_of: str | None = None
    source: Origin
    input_name: str
    input_file_id: str | None = None
    endpoint: str | None = None
    completion_window: str | None = None

    def to_json(self) -> bytes:
        """The file's content."""
        return self.model_dump_json(by_alias=True, indent=2, exclude_none=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The manifest in a file's content. Raises `ValueError`."""
        return cls.model_validate_json(data)


def new_id(now_s: float | None = None) -> str:
    """A job id; ids sort by the time at which they were made, to the millisecond."""
    return f"job_{int((time.time() if now_s is None else now_s) * 1000):012x}{os.urandom(6).hex()}"
