"""What a switch between engines costs: `scripts/bench/switch`, or with the names of some of its parts.

The engines are simulators that share one memory: Ollama runs, and the controller starts and ends vLLM. Both are equally fast, so
that a job's rate says what switches cost it and not which engine it was on.
"""

import json
import os
import shlex
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import place
import table
from jobs import texts
from main_path import producer, send
from place import Place
from switch_course import Course, Watch
from table import Row

from aegis_workers.jobs import submission
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.journal import State
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms
from aegis_workers.local import children, process, redis_server
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine, Mode
from aegis_workers.simulator.pool import Contents
from aegis_workers.state import job_state, keys

NO_REDIS = "redis://127.0.0.1:1/0"
LIMIT = 32
CALL_S = 0.4
JOB_CALLS = ("--slots", "64", "--call-seconds", str(CALL_S), "--call-seconds-cv", "0.3")
QUICK = ("--slots", "64", "--call-seconds", "0.05")
VLLM_START_S = 2.0
OLLAMA_RETURN_S = 1.0
SIZES_GB: Mapping[Engine, float] = {Engine.VLLM: 60.0, Engine.OLLAMA: 50.0}
EXCLUSIVE_GB = 100.0
ITEMS = 2_000
SWITCHES = 5
STEADY_S = 2.5
WITHIN_S = 120.0
POLL_S = 0.005
DWELL_S = 0.5
CALL_EVERY_S = 0.03
CALLS = 250


@dataclass(frozen=True, kw_only=True)
class Host:
    """An installation whose engines the controllers lead. The first of them leads."""

    here: Place
    pool: Path
    logs: Path
    controllers: list[Process]

    def until(self, holds: Callable[[], Any], within_s: float = WITHIN_S) -> Any:
        """What `holds` returns once it is true. Raises `ProcessFailed` and `TimeoutError`."""
        deadline = time.monotonic() + within_s
        while not (value := holds()):
            self.here.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"it took longer than {within_s:g} s")
            time.sleep(POLL_S)
        return value

    def add_controller(self) -> Process:
        """One more controller, which leads or stands by."""
        logs = self.logs / str(len(list(self.logs.iterdir())))
        logs.mkdir()
        self.controllers.append(children.start_controller(self.here.settings, logs))
        children.await_controller(self.controllers[-1])
        return self.controllers[-1]

    def switch(self, engine: Engine) -> Course:
        """Write the mode of this engine and follow it until it is ready."""
        with Watch(self.here, self.pool, engine, SIZES_GB[engine]) as watch:
            self.here.redis.set(keys.MODE, engine.value)
            self.until(watch.is_ready)
        return watch.course()

    def end_engines(self) -> None:
        """End what the controllers started, which outlives them."""
        ollama = self.here.simulators[Engine.OLLAMA].pid
        for one in Contents.model_validate_json(self.pool.read_bytes()).holders:
            if one.pid != ollama:
                with suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)


@contextmanager
def host(queues: Sequence[str], calls: Sequence[str], *, room: bool = False, **settings: Any) -> Iterator[Host]:
    """A host with a memory for one engine, or with room for both; Ollama is ready."""
    total_gb = sum(SIZES_GB.values()) if room else EXCLUSIVE_GB
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aegis-bench-")))
        server = stack.enter_context(redis_server.running(NO_REDIS))
        pool, logs, port = folder / "pool.json", folder / "logs", process.free_port()
        logs.mkdir()
        memory = ("--memory-pool", str(pool), "--memory-total-gb", str(total_gb), *calls)
        ollama = (*memory, "--memory-gb", str(SIZES_GB[Engine.OLLAMA]), "--memory-return-s", str(OLLAMA_RETURN_S))
        vllm = (*memory, "--memory-gb", str(SIZES_GB[Engine.VLLM]), "--start-seconds", str(VLLM_START_S))
        command = [sys.executable, "-m", "aegis_workers.cli", "simulate", "vllm", "--port", str(port), *vllm]
        rules: dict[str, Any] = {
            "llm_engine_mode": "ollama",
            "data_dir": folder / "data",
            "vllm_url": (f"http://127.0.0.1:{port}",),
            "vllm_model": place.MODEL,
            "vllm_driver": "process",
            "vllm_command": shlex.join(command),
            "vllm_memory_gb": SIZES_GB[Engine.VLLM],
            "vllm_limit": LIMIT,
            "ollama_driver": "ollama",
            "ollama_memory_gb": SIZES_GB[Engine.OLLAMA],
            "ollama_limit": LIMIT,
            "memory_source": str(pool),
            "min_dwell_s": DWELL_S,
        }
        here = stack.enter_context(place.running(server.url, queues, {Engine.OLLAMA: ollama}, **rules | settings))
        found = Host(here=here, pool=pool, logs=logs, controllers=[])
        stack.callback(found.end_engines)
        stack.callback(lambda: process.stop(found.controllers, place.STOP_GRACE_S))
        found.add_controller()
        with Watch(here, pool, Engine.OLLAMA, 0.0) as watch:
            found.until(watch.is_ready)
        yield found


def share(runs: int) -> Iterator[Row]:
    """Switches there and back with a few calls in flight, each split into what the engines and what the controller took."""
    found: dict[Engine, list[Course]] = {engine: [] for engine in Engine}
    with host(("chat",), QUICK) as at:
        app = producer(at.here.settings.redis_url)
        for _ in range(runs):
            for engine in Engine:
                time.sleep(DWELL_S)  # an engine that was ready for a shorter time stays
                for number in range(LIMIT):
                    send(app, number, "chat")
                at.until(partial(_is_full, at, LIMIT // 2))
                found[engine].append(at.switch(engine))
        app.close()
    for engine, courses in found.items():
        yield Row(f"switch to {engine.label}, from the write until it is ready", "s", [one.whole_s for one in courses], None)
        for phase in courses[0].phases_s:
            yield Row(f"  {phase}", "s", [one.phases_s[phase] for one in courses], None)
        yield Row("  the controller's own share: all else", "s", [one.own_s for one in courses], 1.0)
        for step in courses[0].between_s:
            yield Row(f"    {step}", "s", [one.between_s[step] for one in courses], None)


def room(runs: int) -> Iterator[Row]:
    """Calls that come all the time while a host with room for both switches; without a switch, what else delays them here."""
    for kind, mode in (("extract", Mode.VLLM), ("chat", Mode.AUTO), ("chat", Mode.VLLM), ("chat", None)):
        delayed, longest = [], []
        for _ in range(runs):
            with host(("extraction", "chat"), QUICK, room=True) as at:
                took = _through(at, kind, mode)
                usual = statistics.median(took[: CALLS // 5])
                delayed.append(float(sum(one > usual + 0.1 for one in took)))
                longest.append((max(took) - usual) * 1e3)
        what = "no switch" if mode is None else f"from ollama to {mode}"
        name = f"room for both, {what}: of {CALLS} calls ({kind}), delayed by more than 100 ms"
        yield Row(name, "calls", delayed, None if mode is None else 0)
        yield Row("  the most that one was delayed", "ms", longest, None)


def _through(at: Host, kind: str, mode: Mode | None) -> list[float]:
    """Seconds that each call took while the mode, if one is given, was written after a fifth of them."""
    app = producer(at.here.settings.redis_url)
    for one in [send(app, number, kind) for number in range(10)]:
        one.get(timeout=WITHIN_S)
    results, sent = [], []
    for number in range(CALLS):
        if number == CALLS // 5 and mode is not None:
            at.here.redis.set(keys.MODE, mode.value)
        sent.append(time.time())
        results.append(send(app, number, kind))
        time.sleep(CALL_EVERY_S)
    for one in results:
        one.get(timeout=WITHIN_S)
    ends = [one.date_done.timestamp() for one in results]
    app.close()
    return [end - begun for begun, end in zip(sent, ends, strict=True)]


def standby(runs: int) -> Iterator[Row]:
    """A leader that is killed."""
    took = []
    with host((), QUICK) as at:
        for _ in range(runs):
            second = at.add_controller()
            first = at.controllers.pop(0)
            begun = time.perf_counter()
            first.popen.kill()
            first.popen.wait()
            at.until(lambda: "controller.leads" in second.log_text())  # noqa: B023 - called at once
            took.append(time.perf_counter() - begun)
    yield Row("a standby leads after kill -9", "s", took, 15)


def job(runs: int) -> Iterator[Row]:
    """A job in whose midst the engines are switched, and one without."""
    rates, shares, missing, twice = [], [], [], []
    for _ in range(runs):
        with host(("extraction",), JOB_CALLS, vllm_interactive_slots=0, ollama_interactive_slots=0) as at:
            usual, _ = _run(at, [None] * SWITCHES)
            rates.append(usual)
            engines = [Engine.VLLM, Engine.OLLAMA] * SWITCHES
            rate, found = _run(at, engines[:SWITCHES])
            shares.append(100 * rate / usual)
            missing.append(float(ITEMS - len(found)))
            twice.append(float(sum(count > 1 for count in found.values())))
    yield Row(f"a job of {ITEMS:,} items without a switch", "items/s", rates, None)
    yield Row(f"  with {SWITCHES} switches: of that, outside of them", "%", shares, 95, at_least=True)
    yield Row("  items without a line", "items", missing, 0)
    yield Row("  items with more than one line", "items", twice, 0)


def _run(at: Host, engines: Sequence[Engine | None]) -> tuple[float, Counter[str]]:
    """Items a second outside of the switches to these engines (None: no switch), and how often each item has a line.

    A switch lasts until the engine has been full for as long as a call takes.
    """
    submitted = submission.write(Spool(at.here.settings.data_dir), Items(items=texts(ITEMS)), Terms(), at.here.settings).job
    done, took = 0, 0.0
    for engine in (*engines, None):
        at.until(partial(_is_full, at))
        time.sleep(CALL_S)
        before, begun = _recorded(at, submitted), time.perf_counter()
        while time.perf_counter() - begun < STEADY_S:
            time.sleep(POLL_S)
        done, took = done + _recorded(at, submitted) - before, took + time.perf_counter() - begun
        if engine is not None:
            at.switch(engine)
    at.until(lambda: submitted.journal.last().state is State.COMPLETED)
    return done / took, Counter(_ids(submitted))


def _is_full(at: Host, calls: int = LIMIT) -> bool:
    leases = sum(int(at.here.redis.zcard(name)) for name in list(at.here.redis.scan_iter(f"{keys.SLOTS_PREFIX}*")))
    return leases >= calls


def _recorded(at: Host, submitted: JobFolder) -> int:
    state = job_state.read_now(at.here.redis, [submitted.id])[submitted.id]
    return state.recorded


def _ids(submitted: JobFolder) -> Iterator[str]:
    for path in submitted.results.glob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            yield str(json.loads(line)["custom_id"])


PARTS: Mapping[str, Callable[[int], Iterator[Row]]] = {"share": share, "room": room, "standby": standby, "job": job}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each figure.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(parts: Sequence[str], *, runs: int, as_json: bool) -> None:
    """Measure PARTS of what a switch costs, by default all of them."""
    rows = [row for part in parts or PARTS for row in PARTS[part](runs)]
    table.show(None, rows, as_json=as_json)


if __name__ == "__main__":
    main()
