"""What it takes to submit a job: `scripts/bench/submit`, on the disk that the temporary folder is on.

Each figure is measured in a process of its own, so that its memory is its own too.
"""

import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import table
from table import Row

from aegis_workers.jobs import submission
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.part import Content, Part, ResultLine
from aegis_workers.jobs.parts import Parts
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms
from aegis_workers.settings import Settings

TEXT_BYTES = 2_000
PART_LINES = 1_000
# Enough to fill every buffer: what grows after that grows with the items.
WARM_UP = 2_000
LINE = b"x" * 400


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of some items: seconds that passed, CPU seconds, and bytes by which the process grew."""

    wall_s: float
    cpu_s: float
    bytes: int


def texts(count: int) -> Iterator[Mapping[str, Any]]:
    """So many items of 2 kB, each another one."""
    rest = "Ada Stone leads Brightwater Labs in Oslo. " * (TEXT_BYTES // 40)
    for number in range(count):
        yield {"custom_id": f"document-{number}", "text": f"{number} {rest}"[:TEXT_BYTES]}


def requests(count: int) -> Iterator[Mapping[str, Any]]:
    """So many lines of an OpenAI batch."""
    for item in texts(count):
        body = {"model": "m", "messages": [{"role": "user", "content": item["text"]}], "max_tokens": 100}
        yield {"custom_id": item["custom_id"], "method": "POST", "url": "/v1/chat/completions", "body": body}


def submit(root: Path, items: Iterator[Mapping[str, Any]]) -> JobFolder:
    """Submit them with the default settings."""
    return submission.write(Spool(root), Items(items=items), Terms(), Settings(_env_file=None)).job


def submitting(kind: Callable[[int], Iterator[Mapping[str, Any]]], count: int, root: Path) -> Callable[[], object]:
    """The submission of so many items."""
    submit(root, kind(WARM_UP))
    return lambda: submit(root, kind(count))


def cutting(count: int, root: Path) -> Callable[[], object]:
    """Reading so many items for the feeder, cut into their chunks and ready to travel."""
    job = submit(root, texts(count))
    return lambda: sum(len(chunk.to_message()) for chunk in job.chunks())


def taking_over(count: int, root: Path) -> Callable[[], object]:
    """What a new leader reads of a job with so many results."""
    job = submit(root, ({"custom_id": str(number), "text": "x"} for number in range(count)))
    parts = Parts(job)
    for first in range(0, count, PART_LINES):
        last = min(first + PART_LINES, count)
        lines = [ResultLine(item=item, status="ok", data=LINE) for item in range(first, last)]
        named = Part(first=first + 1, last=last, token=1)
        parts.write(named, Content(chunks=[(first, last - 1)], lines=lines, totals={"calls": last - first}))
        parts.commit(named)

    def take_over() -> None:
        again = Parts(Spool(root).open(job.id))
        again.settle(count, 2)
        again.done()
        again.complete()
        again.tally()

    return take_over


def measure(prepare: Callable[[Path], Callable[[], object]]) -> Cost:
    """What the prepared work costs, in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    root = Path(tempfile.mkdtemp(prefix="aegis-bench-"))
    process = multiprocessing.get_context("fork").Process(target=_measure, args=(prepare, root, theirs))
    try:
        process.start()
        theirs.close()
        cost: Cost = ours.recv()
        process.join()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return cost


def _measure(prepare: Callable[[Path], Callable[[], object]], root: Path, pipe: Connection) -> None:
    work = prepare(root)
    os.sync()
    before_bytes, wall_s, cpu_s = _peak_bytes(), time.perf_counter(), time.process_time()
    work()
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    pipe.send(Cost(wall_s=wall_s, cpu_s=cpu_s, bytes=_peak_bytes() - before_bytes))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each figure.")
@click.option("--items", type=click.IntRange(min=1), default=100_000, show_default=True, help="Items of a job.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(*, runs: int, items: int, as_json: bool) -> None:
    """Measure submission, and what a controller reads of the disk."""
    table.show(None, list(figures(runs, items)), as_json=as_json)


def figures(runs: int, items: int) -> Iterator[Row]:
    """Each figure over its runs."""
    for name, kind, target in (("texts of 2 kB", texts, 20_000.0), ("OpenAI lines of 2 kB", requests, None)):
        costs = [measure(partial(submitting, kind, items)) for _ in range(runs)]
        yield Row(f"submit {name}", "items/s", [items / cost.wall_s for cost in costs], target, at_least=True)
        yield Row(f"submit {name}, CPU an item", "µs", _each(costs, items, 1e6), None)
        yield Row(f"submit {name}, memory an item", "bytes", [cost.bytes / items for cost in costs], 16)
    costs = [measure(partial(cutting, items // 5)) for _ in range(runs)]
    yield Row("read and cut items of 2 kB", "items/s", [items // 5 / cost.wall_s for cost in costs], 10_000, at_least=True)
    costs = [measure(partial(taking_over, items)) for _ in range(runs)]
    yield Row(f"take over {items:,} results", "s", [cost.wall_s for cost in costs], None)


def _each(costs: Sequence[Cost], items: int, scale: float) -> list[float]:
    return [cost.cpu_s / items * scale for cost in costs]


if __name__ == "__main__":
    main()
