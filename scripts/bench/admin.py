"""What the admin API takes while a job runs: `scripts/bench/admin`.

Everything runs on this machine, with the simulator, the worker and Redis on its cores.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import httpx
import jobs
import place
import table
from jobs import Jobs
from table import Row

from aegis_workers.local import children, process

# A vLLM that is busy, at the pace of a large model.
SLOTS = 64
CALL_S = 1.0
ASKED = 500
PATHS = {
    "GET engine": ("/api/v1/admin/llm/engine", 15.0),
    "GET overview": ("/api/v1/admin/overview", None),
}


@contextmanager
def serving(here: Jobs) -> Iterator[httpx.Client]:
    """The admin API as a process of its own, and a client that keeps its connection."""
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as logs:
        child = children.start_admin(0, here.here.settings, Path(logs))
        try:
            with httpx.Client(base_url=children.address(child), timeout=30) as client:
                yield client
        finally:
            process.stop([child], place.STOP_GRACE_S)


def ask(client: httpx.Client, path: str) -> list[float]:
    """The ms that each answer took, one request after the other."""
    took = []
    for _ in range(ASKED):
        began = time.perf_counter()
        client.get(path).raise_for_status()
        took.append((time.perf_counter() - began) * 1000)
    return took


def figures(runs: int) -> Iterator[Row]:
    """Each figure over its runs."""
    with jobs.running(("extraction",), jobs.call_seconds(CALL_S), vllm_limit=SLOTS) as here, serving(here) as client:
        job = here.submit(jobs.requests(jobs.EXTRACTIONS * 10))
        here.until(lambda: (state := here.state(job)) is not None and state.recorded > SLOTS)
        for name, (path, target) in PATHS.items():
            found = [ask(client, path) for _ in range(runs)]
            yield Row(f"{name}, p50", "ms", [statistics.median(took) for took in found], None)
            yield Row(f"{name}, p99", "ms", [statistics.quantiles(took, n=100)[98] for took in found], target)


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each figure.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(*, runs: int, as_json: bool) -> None:
    """Measure how soon the admin API answers while a job runs."""
    table.show(None, list(figures(runs)), as_json=as_json)


if __name__ == "__main__":
    main()
