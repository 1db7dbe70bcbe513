"""What a benchmark prints: the machine, and of each figure the median, the spread over the runs, and whether it met a target."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import redis

from aegis_workers.cli.output import print_json, print_table


@dataclass(frozen=True)
class Row:
    """One figure over its runs. `target` bounds it from above, or from below with `at_least`."""

    what: str
    unit: str
    runs: Sequence[float]
    target: float | None
    at_least: bool = False


def show(redis_url: str | None, rows: Sequence[Row], *, as_json: bool) -> None:
    """Print the figures, and on what they were measured; a Redis belongs to it where `redis_url` is given."""
    machine = ", ".join([_machine(), *([] if redis_url is None else [_redis(redis_url)]), f"load {os.getloadavg()[0]:.1f}"])
    if as_json:
        print_json({"machine": machine, "figures": [vars(row) for row in rows]})
        return
    click.echo(machine)
    print_table(("FIGURE", "MEDIAN", "MIN", "MAX", "TARGET", "MET"), [_shown(row) for row in rows])


def _shown(row: Row) -> tuple[str, ...]:
    median = statistics.median(row.runs)
    figures = (row.what, f"{median:.3g} {row.unit}", f"{min(row.runs):.3g}", f"{max(row.runs):.3g}")
    if row.target is None:
        return (*figures, "", "")
    met = median >= row.target if row.at_least else median <= row.target
    return (*figures, f"{'≥' if row.at_least else '≤'} {row.target:g}", "yes" if met else "NO")


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = cpuinfo.partition("model name")[2].partition(":")[2].partition("\n")[0].strip() or platform.machine()
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}"


def _redis(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        return f"Redis {client.info('server')['redis_version']}"
