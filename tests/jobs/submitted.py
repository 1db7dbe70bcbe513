"""Jobs to test with: submitted from a few items, and parts with results of theirs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aegis_workers.jobs import submission
from aegis_workers.jobs.bitmap import ranges_of
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.part import Content, Part, Piece, ResultLine
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Submitted, Terms
from aegis_workers.settings import Settings

SETTINGS = Settings(_env_file=None, chunk_tokens=50, chunk_overlap_tokens=10, max_text_bytes=100_000)


def submit(root: Path, items: Iterable[Any], **terms: Any) -> Submitted:
    """Submits through the data folder `root`, with small chunks."""
    return submission.write(Spool(root), Items(items=items), Terms(**terms), SETTINGS)


def job_of(root: Path, texts: Iterable[Any]) -> JobFolder:
    """The job of these texts."""
    return submit(root, texts).job


def everything(root: Path) -> set[str]:
    """What lies under `root`, but for the empty folders that stay."""
    return {str(path.relative_to(root)) for path in root.rglob("*")} - {"jobs", "keys"}


def content(items: Sequence[int], *, status: str = "ok", pieces: Sequence[Piece] = (), word: str = "line") -> Content:
    """The outcomes of one-chunk items whose chunk has the item's number, and pieces."""
    lines = [ResultLine(item=item, status=status, data=f'{{"{word}":{item}}}'.encode()) for item in items]
    chunks = ranges_of([*items, *(piece.chunk for piece in pieces)])
    return Content(chunks=chunks, lines=lines, pieces=pieces, totals={"calls": len(items) + len(pieces)})


def named(first: int, last: int, token: int = 7) -> Part:
    """A part's name."""
    return Part(first=first, last=last, token=token)
