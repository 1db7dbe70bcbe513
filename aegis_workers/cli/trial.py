"""`submit --try N`: a few items as a job of their own, to see what comes of them and what the rest will take."""

import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import click

from aegis_workers.cli import watch
from aegis_workers.cli.output import plain, print_json, print_table, span
from aegis_workers.jobs.desk import Desk, ResultLine
from aegis_workers.jobs.journal import State
from aegis_workers.jobs.lines import Record
from aegis_workers.jobs.manifest import Origin
from aegis_workers.jobs.sources import Source
from aegis_workers.jobs.submission import Terms
from aegis_workers.jobs.view import View
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings

_SHOWN = 20
# A trial that fails is looked at whole: nothing of it stops early.
_NEVER_STOP = 1.0
_MAX_CHARS = 100


class Head:
    """The first records of a source; `rest` counts the others, once these were read. Satisfies `Source`."""

    def __init__(self, source: Source, count: int) -> None:
        self._source = source
        self._records = iter(source)
        self._count = count
        self.name = f"{source.name} (the first {count})"
        self.origin: Origin = source.origin

    def __iter__(self) -> Iterator[Record]:
        return islice(self._records, self._count)

    def place(self, number: int) -> str:
        """As the source says."""
        return self._source.place(number)

    def rest(self) -> int:
        """How many records there are beside them. Reads all of them."""
        counted = deque(enumerate(self._records, 1), maxlen=1)
        return counted[0][0] if counted else 0


def run(desk: Desk, source: Source, terms: Terms, count: int, settings: Settings, *, as_json: bool) -> int:
    """Submit the first `count` items, wait for them, and show what they came to; returns the exit status of `watch`.

    The others are counted, and neither checked nor submitted.
    """
    if terms.key is not None:
        raise click.UsageError("--try submits a job of its own: leave --key to the whole one")
    head = Head(source, count)
    receipt = desk.submit(head, replace(terms, stop_share=_NEVER_STOP))
    job_id, rest = receipt.job_id, head.rest()
    click.echo(f"Trying {receipt.manifest.items:,} items as {job_id}.", err=True)
    code = watch.follow(desk, job_id, sys.stderr)
    if code == watch.INTERRUPTED:
        return code
    view, lines = desk.find(job_id), list(islice(desk.lines(job_id, ordered=True), _SHOWN))
    if as_json:
        print_json(_as_json(view, rest, [json.loads(line.body) for line in lines], settings))
    else:
        _show(view, rest, lines, settings)
    return code


def rest_s(view: View, rest: int) -> float | None:
    """How long so many items more take at the rate of this job; None where it has none."""
    return rest / view.items_per_s if view.state is State.COMPLETED and view.items_per_s else None


def least_s(view: View, rest: int, settings: Settings) -> float | None:
    """How long they take where each engine always has as many calls as it may have, by the time that these calls took.

    None where that is not known: where no call was made, or the engines are another host's.
    """
    if settings.admin_url is not None or not view.done or not view.totals.engine_ms:
        return None
    busy_s = (ms / 1000 / _slots(Engine(name), settings) for name, ms in view.totals.engine_ms.items())
    return rest / view.done * sum(busy_s)


def _slots(engine: Engine, settings: Settings) -> int:
    return settings.limit(engine) * len(settings.urls(engine))


def _as_json(view: View, rest: int, lines: Sequence[Any], settings: Settings) -> dict[str, Any]:
    return {
        "id": view.id,
        "state": view.state.value,
        "items": view.manifest.items,
        "by_status": {status.value: count for status, count in view.items.items()},
        "prompt_tokens": view.totals.prompt_tokens,
        "completion_tokens": view.totals.completion_tokens,
        "items_per_s": view.items_per_s,
        "rest": rest,
        "rest_s": rest_s(view, rest),
        "least_s": least_s(view, rest, settings),
        "results": lines,
    }


def _show(view: View, rest: int, lines: Sequence[ResultLine], settings: Settings) -> None:
    columns = ("CUSTOM ID", "STATUS", "ENGINE", "TOKENS", "FOUND")
    print_table(columns, [_row(json.loads(line.body), line) for line in lines], numbers=("TOKENS",))
    if view.done > len(lines):
        click.echo(f"and {view.done - len(lines):,} more: aegis-workers results {view.id}")
    click.echo()
    for line in _estimate(view, rest, settings):
        click.echo(line)


def _estimate(view: View, rest: int, settings: Settings) -> Iterator[str]:
    items, totals = view.done or 1, view.totals
    yield f"An item took {totals.prompt_tokens / items:,.0f} tokens read and {totals.completion_tokens / items:,.0f} written."
    if not rest:
        yield "That was all of the input."
        return
    time_s = rest_s(view, rest)
    if time_s is None:
        yield f"The other {rest:,} items are not submitted."
        return
    yield f"The other {rest:,} take about {span(time_s)} at the rate of these ({view.items_per_s:,.1f} items/s)."
    best_s = least_s(view, rest, settings)
    if best_s is not None and best_s < time_s:
        yield f"So few do not fill an engine: with every slot of it busy the others take {span(best_s)}."
    read, written = (rest * tokens / items for tokens in (totals.prompt_tokens, totals.completion_tokens))
    yield f"They take about {read:,.0f} tokens read and {written:,.0f} written."
    yield "They are not submitted: to do so, submit the same input without --try."


def _row(found: Any, line: ResultLine) -> tuple[str, ...]:
    extras = found.get("aegis") or found
    usage = found.get("usage") or ((found.get("response") or {}).get("body") or {}).get("usage") or {}
    tokens = sum(usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens"))
    return found["custom_id"], line.status.value, extras.get("engine") or "", f"{tokens:,}", _found(found)


def _found(line: Any) -> str:
    """What an item came to, in a few words."""
    if error := line.get("error"):
        return _short(str(error.get("message")))
    if "response" in line:
        return _short(line["response"]["body"]["choices"][0]["message"]["content"])
    data = line["data"]
    if isinstance(data, dict) and data and all(isinstance(value, list) for value in data.values()):
        return ", ".join(f"{len(value)} {name}" for name, value in data.items())
    return _short(json.dumps(data, ensure_ascii=False))


def _short(text: str) -> str:
    """Its first characters."""
    shown = plain(text)
    return shown if len(shown) <= _MAX_CHARS else f"{shown[: _MAX_CHARS - 1]}…"
