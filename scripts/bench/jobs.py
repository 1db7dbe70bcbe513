"""What jobs cost: `scripts/bench/jobs`, or with the names of some of its parts.

Everything runs on this machine, with the simulator and Redis on its cores: rates are lower bounds, and CPU is given by process.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import place
import table
from main_path import cpu_s
from place import Place
from saturation import rate
from submit import LINE, PART_LINES
from table import Row

from aegis_workers.engines.base import Readiness
from aegis_workers.jobs import submission
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.journal import State
from aegis_workers.jobs.local import LocalDesk
from aegis_workers.jobs.part import Content, Part, ResultLine
from aegis_workers.jobs.parts import Parts
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms
from aegis_workers.local import children, process, redis_server
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine
from aegis_workers.state import connection, engine_status, job_state
from aegis_workers.state.engine_status import ReplicaStatus
from aegis_workers.state.job_state import JobState

NO_REDIS = "redis://127.0.0.1:1/0"
SLOTS = 256
TEXT_BYTES = 200
CALL_S = 0.05
WARM_UP_S = 6.0
# Of these the simulator makes answers that it takes ten times as long to make: fewer are enough.
EXTRACTIONS = 10_000
LARGE = 1_000_000
POLL_S = 0.005
WITHIN_S = 3600.0


def text(number: int) -> str:
    """A text of 200 bytes."""
    return (f"{number} " + "Ada Stone leads Brightwater Labs in Oslo. " * 5)[:TEXT_BYTES]


def texts(count: int) -> Iterator[Mapping[str, Any]]:
    """So many documents to extract from."""
    return ({"custom_id": f"document-{number}", "text": text(number)} for number in range(count))


def requests(count: int) -> Iterator[Mapping[str, Any]]:
    """So many lines of an OpenAI batch."""
    for number in range(count):
        body = {"model": "sim", "messages": [{"role": "user", "content": text(number)}], "max_tokens": 256}
        yield {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """An installation with a spool. `controller` leads."""

    here: Place
    controller: Process

    @property
    def spool(self) -> Spool:
        """The jobs."""
        return Spool(self.here.settings.data_dir)

    def submit(self, items: Iterator[Mapping[str, Any]]) -> JobFolder:
        """A job of these items."""
        return submission.write(self.spool, Items(items=items), Terms(), self.here.settings).job

    def state(self, job: JobFolder) -> JobState | None:
        """What Redis knows of it."""
        return job_state.read_now(self.here.redis, [job.id]).get(job.id)

    def until(self, holds: Callable[[], bool]) -> None:
        """Returns when it does. Raises `ProcessFailed` and `TimeoutError`."""
        deadline = time.monotonic() + WITHIN_S
        while not holds():
            self.here.check()
            self.controller.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"it took longer than {WITHIN_S:g} s")
            time.sleep(POLL_S)

    def cpu(self) -> dict[str, float]:
        """CPU seconds of every process so far."""
        redis: Any = self.here.redis.info("cpu")
        return {
            "worker": sum(cpu_s(worker.pid) for worker in self.here.workers.values()),
            "controller": cpu_s(self.controller.pid),
            "Redis": redis["used_cpu_user"] + redis["used_cpu_sys"],
            "simulator": sum(cpu_s(child.pid) for child in self.here.simulators.values()),
        }


def call_seconds(mean_s: float) -> Sequence[str]:
    """The options of a simulator whose calls take so long, with room for all that come."""
    return ("--slots", str(2 * SLOTS), "--call-seconds", str(mean_s))


@contextmanager
def running(queues: Sequence[str], options: Sequence[str] = (), **settings: Any) -> Iterator[Jobs]:
    """An installation on a Redis and a folder of its own; `options` are those of its simulator."""
    options = options or call_seconds(CALL_S)
    rules = {"llm_engine_mode": "vllm", "vllm_limit": SLOTS, "vllm_interactive_slots": 0}
    with (
        tempfile.TemporaryDirectory(prefix="aegis-bench-") as folder,
        redis_server.running(NO_REDIS) as server,
        place.running(server.url, queues, {Engine.VLLM: options}, data_dir=Path(folder), **rules | settings) as here,
        controlling(here) as controller,
    ):
        yield Jobs(here=here, controller=controller)


@contextmanager
def controlling(here: Place) -> Iterator[Process]:
    """A controller that leads."""
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as logs:
        child = children.start_controller(here.settings, Path(logs))
        try:
            children.await_controller(child)
            yield child
        finally:
            process.stop([child], place.STOP_GRACE_S)


def peak_mb(pid: int) -> float:
    """The most memory that a process has had, in MB of 1,000,000 bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def feed(items: int, runs: int) -> Iterator[Row]:
    """How fast items come into the queue, with room for all of them and nobody to take them."""
    count = min(items, 50_000)
    rates, costs = [], []
    for _ in range(runs):
        with running((), window_calls=10 * count, window_bytes=100_000_000_000) as jobs:
            asyncio.run(_say_ready(jobs.here))  # there is no worker that would
            before = jobs.cpu()["controller"]
            job = jobs.submit(texts(count))
            jobs.until(lambda: (state := jobs.state(job)) is not None and state.fed > 0)  # noqa: B023 - called at once
            begun, first = time.perf_counter(), fed(jobs, job)
            jobs.until(lambda: fed(jobs, job) == count)  # noqa: B023
            rates.append((count - first) / (time.perf_counter() - begun))
            costs.append((jobs.cpu()["controller"] - before) / count * 1e6)
    yield Row(f"feed {count:,} items of {TEXT_BYTES} bytes", "items/s", rates, 10_000, at_least=True)
    yield Row("  controller CPU an item", "µs", costs, None)


def fed(jobs: Jobs, job: JobFolder) -> int:
    """How many of its items were fed."""
    state = jobs.state(job)
    return 0 if state is None else state.fed


async def _say_ready(here: Place) -> None:
    async with connection.open_async(here.settings) as client:
        ready = [ReplicaStatus(url=here.url(Engine.VLLM), state=Readiness.READY)]
        await engine_status.report(client, Engine.VLLM, ready, complete=True)


def completions(items: int, runs: int) -> Iterator[Row]:
    """Requests of an OpenAI batch, which cost the simulator little: what the rest of the system carries."""
    for count in sorted({1_000, 10_000, items}):
        yield from _run("requests", requests, count, runs)


def peers(items: int, runs: int) -> Iterator[Row]:
    """The same at the pace at which saq was measured at 1,650 items/s and taskiq at 1,500 to 1,700, on two such cores."""
    yield from _run("requests", requests, min(items, 20_000), runs, call_s=0.1)


def extraction(items: int, runs: int) -> Iterator[Row]:
    """Documents, of which one is a chunk."""
    for count in sorted({1_000, min(items, EXTRACTIONS)}):
        yield from _run("documents", texts, count, runs)


def _run(
    what: str, kind: Callable[[int], Iterator[Mapping[str, Any]]], count: int, runs: int, *, call_s: float = CALL_S
) -> Iterator[Row]:
    name = f"{count:,} {what}"
    rates: list[float] = []
    costs: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {}
    for _ in range(runs):
        with running(("extraction",), call_seconds(call_s)) as jobs:
            _complete(jobs, kind(1_000))
            before, begun = jobs.cpu(), time.perf_counter()
            _complete(jobs, kind(count))
            rates.append(count / (time.perf_counter() - begun))
            for process_name, used_s in jobs.cpu().items():
                costs.setdefault(process_name, []).append((used_s - before[process_name]) / count * 1e3)
            for process_name, found in _peaks(jobs).items():
                peaks.setdefault(process_name, []).append(found)
    yield Row(f"{name}, {SLOTS} slots, {1e3 * call_s:g} ms a call", "items/s", rates, None)
    for process_name, found_costs in costs.items():
        yield Row(f"  CPU an item, {process_name}", "ms", found_costs, 1.0 if process_name == "worker" else None)
    for process_name, found_peaks in peaks.items():
        yield Row(f"  most memory, {process_name}", "MB", found_peaks, {"Redis": 64, "controller": 150}.get(process_name))


def _complete(jobs: Jobs, items: Iterator[Mapping[str, Any]]) -> None:
    """From the submission to the job's end."""
    job = jobs.submit(items)
    jobs.until(lambda: job.journal.last().state in {State.COMPLETED, State.STOPPED})
    if job.journal.last().state is State.STOPPED:
        raise click.ClickException(f"the job stopped: {job.journal.last().reason}")


def _peaks(jobs: Jobs) -> dict[str, float]:
    redis: Any = jobs.here.redis.info("memory")
    workers = jobs.here.workers.values()
    return {
        "Redis": redis["used_memory_peak"] / 1e6,
        "controller": peak_mb(jobs.controller.pid),
        "worker": max(peak_mb(worker.pid) for worker in workers),
    }


def saturation(_items: int, runs: int) -> Iterator[Row]:
    """How full a job keeps an engine, as `scripts/bench/saturation` has it for tasks."""
    ceiling = SLOTS / 2.0
    for name, variation, target in (("2 s a call", 0.0, 97.0), ("2 s a call, log-normal, CV 1", 1.0, 92.0)):
        options = ("--slots", str(2 * SLOTS), "--call-seconds", "2", "--call-seconds-cv", str(variation))
        shares = []
        for _ in range(runs):
            with running(("extraction",), options) as jobs:
                jobs.submit(requests(round(ceiling * 120)))
                jobs.until(lambda: jobs.here.count(Engine.VLLM)["in_flight"] >= SLOTS)
                time.sleep(WARM_UP_S)
                shares.append(100 * rate(jobs.here, Engine.VLLM) / ceiling)
        yield Row(f"{SLOTS} slots, {name}: of {ceiling:g} calls/s, through a job", "%", shares, target, at_least=True)


def large(items: int, runs: int) -> Iterator[Row]:
    """A job of which half is collected: its status, and a controller that starts anew."""
    count = LARGE if items >= LARGE // 10 else items
    with running(()) as jobs:
        asyncio.run(_say_ready(jobs.here))
        process.stop([jobs.controller], place.STOP_GRACE_S)
        job = jobs.submit(texts(count))
        _collect_half(job)
        starts, times = [], []
        for _ in range(runs):
            jobs.here.redis.flushdb()
            asyncio.run(_say_ready(jobs.here))
            begun = time.perf_counter()
            with controlling(jobs.here) as controller:
                again = Jobs(here=jobs.here, controller=controller)
                again.until(lambda: (state := again.state(job)) is not None and state.out_chunks > 0)  # noqa: B023
                starts.append(time.perf_counter() - begun)
                times.append(_status_ms(jobs.here, job))
    yield Row(f"status of a job of {count:,} items, half of them collected", "ms", times, 10)
    yield Row("  a controller that starts, until it feeds that job (Redis was wiped)", "s", starts, 3)


def _collect_half(job: JobFolder) -> None:
    parts = Parts(job)
    half = job.manifest.items // 2
    for first in range(0, half, PART_LINES):
        last = min(first + PART_LINES, half)
        lines = [ResultLine(item=item, status="ok", data=LINE) for item in range(first, last)]
        named = Part(first=first + 1, last=last, token=1)
        parts.write(named, Content(chunks=[(first, last - 1)], lines=lines, totals={"calls": last - first}))
        parts.commit(named)


def _status_ms(here: Place, job: JobFolder) -> float:
    with LocalDesk(here.settings) as desk:
        desk.find(job.id)
        times = []
        for _ in range(20):
            begun = time.perf_counter()
            desk.find(job.id)
            times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


PARTS: Mapping[str, Callable[[int, int], Iterator[Row]]] = {
    "feed": feed,
    "completions": completions,
    "peers": peers,
    "extraction": extraction,
    "saturation": saturation,
    "large": large,
}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each figure.")
@click.option("--items", type=click.IntRange(min=1_000), default=100_000, show_default=True, help="Items of the largest run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(parts: Sequence[str], *, runs: int, items: int, as_json: bool) -> None:
    """Measure PARTS of what jobs cost, by default all of them."""
    with redis_server.running(NO_REDIS) as server:
        table.show(server.url, [row for part in parts or PARTS for row in PARTS[part](items, runs)], as_json=as_json)


if __name__ == "__main__":
    main()
