"""A job in words for people."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from aegis_workers.cli.output import ago, span
from aegis_workers.routing import Engine

if TYPE_CHECKING:
    from aegis_workers.jobs.view import View


def facts(view: "View") -> Iterator[tuple[str, str]]:
    """What `status` says, line by line: a word, and what it is."""
    manifest, totals = view.manifest, view.totals
    yield "Job", f"{view.id} ({view.name})"
    yield "State", f"{view.state}, {_since(view)}"
    if view.waits:
        yield "Reason" if view.is_at_rest else "Waits", view.waits
    yield "Items", _items(view)
    if manifest.chunks != manifest.items or view.in_flight:
        flight = f", {view.in_flight:,} fed and not done" if view.in_flight else ""
        yield "Calls", f"{view.chunks_done:,} of {manifest.chunks:,} done{flight}"
    if rates := speed(view):
        yield "Rate", rates
    if totals.calls:
        yield "Engines", engines(view)
        yield "Tokens", f"{totals.prompt_tokens:,} read, {totals.completion_tokens:,} written, in {totals.attempts:,} attempts"
    if manifest.policy.value == "per-job":
        yield "Policy", f"per-job: {f'stays on {Engine(view.engine).label}' if view.engine else 'no engine is chosen yet'}"
    for error in view.errors:
        yield "Error", f"{error.count:,} of the newest failures: {error.message}"
    if manifest.retry_of:
        yield "Retries", manifest.retry_of
    if view.retries:
        yield "Retried by", ", ".join(view.retries)


def speed(view: "View") -> str:
    """Items and tokens a second, and what time is left; empty where nothing is known."""
    if view.items_per_s is None:
        return ""
    words = [f"{view.items_per_s:,.1f} items/s", f"{view.tokens_per_s or 0:,.0f} tokens/s"]
    if view.remaining_s is not None:
        words.append(f"about {span(view.remaining_s)} left")
    return ", ".join(words)


def engines(view: "View") -> str:
    """Which share of the calls each engine had, and how much of its time."""
    calls = view.totals.calls
    total = sum(calls.values())
    shares = (
        f"{Engine(name).label} {count / total:.0%} of the calls ({span(view.totals.engine_ms.get(name, 0) / 1000)} of its time)"
        for name, count in sorted(calls.items(), key=lambda each: -each[1])
    )
    return ", ".join(shares)


def split(calls: Mapping[str, int]) -> str:
    """The same, short."""
    total = sum(calls.values())
    return ", ".join(
        f"{Engine(name).label} {count / total:.0%}" for name, count in sorted(calls.items(), key=lambda each: -each[1])
    )


def statuses(view: "View") -> str:
    """The lines by status, the most frequent first."""
    return ", ".join(f"{count:,} {status}" for status, count in sorted(view.items.items(), key=lambda each: -each[1]) if count)


def _items(view: "View") -> str:
    by_status = statuses(view)
    return f"{view.done:,} of {view.manifest.items:,} done" + (f": {by_status}" if by_status else "")


def _since(view: "View") -> str:
    if view.ended_at is not None:
        took = span(view.ended_at - view.manifest.created_at)
        return f"ended {ago(view.ended_at)}, took {took}"
    expires = f"expires in {span(max(0.0, view.manifest.expires_at - view.at))}"
    submitted = f"submitted {ago(view.manifest.created_at)}, {expires}"
    return f"since {ago(view.entries[-1].at)}, {submitted}" if view.state != "in_progress" else submitted
