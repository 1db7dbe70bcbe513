"""Jobs as people look at them, one row each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aegis_workers.jobs.journal import State
from aegis_workers.jobs.view import View


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """How a job stands. `left_s`: how long the rest takes at the present rate, None where that is not known."""

    id: str
    name: str
    state: State
    items: int
    done: int
    failed: int
    items_per_s: float | None
    left_s: float | None
    waits: str | None
    created_at: float


def rows(views: Sequence[View]) -> Sequence[JobRow]:
    """One row a job."""
    return [_row(view) for view in views]


def _row(view: View) -> JobRow:
    return JobRow(
        id=view.id,
        name=view.name,
        state=view.state,
        items=view.manifest.items,
        done=view.done,
        failed=view.failed,
        items_per_s=view.items_per_s,
        left_s=view.remaining_s,
        waits=view.waits,
        created_at=view.manifest.created_at,
    )


def values(view: View) -> dict[str, Any]:
    """All of one job, as `--json` prints it. Times are epoch seconds, rates a second."""
    manifest, totals = view.manifest, view.totals
    return {
        "id": view.id,
        "name": view.name,
        "input_name": manifest.input_name,
        "kind": manifest.kind.value,
        "state": view.state.value,
        "waits": view.waits,
        "created_at": manifest.created_at,
        "expires_at": manifest.expires_at,
        "ended_at": view.ended_at,
        "items": manifest.items,
        "done": view.done,
        "failed": view.failed,
        "by_status": {status.value: count for status, count in view.items.items()},
        "chunks": manifest.chunks,
        "chunks_done": view.chunks_done,
        "in_flight": view.in_flight,
        "items_per_s": view.items_per_s,
        "tokens_per_s": view.tokens_per_s,
        "remaining_s": view.remaining_s,
        "prompt_tokens": totals.prompt_tokens,
        "completion_tokens": totals.completion_tokens,
        "attempts": totals.attempts,
        "calls": dict(totals.calls),
        "engine_s": {engine: ms / 1000 for engine, ms in totals.engine_ms.items()},
        "policy": manifest.policy.value,
        "engine": view.engine,
        "errors": [error.model_dump() for error in view.errors],
        "metadata": manifest.metadata,
        "retry_of": manifest.retry_of,
        "retries": list(view.retries),
        "journal": [entry.model_dump(mode="json", include={"at", "event", "state", "reason"}) for entry in view.entries],
    }
