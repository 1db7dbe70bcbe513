"""What the main path costs: `scripts/bench/main_path`, or with the names of some of its parts.

Prints one table: each figure's median, its spread over the runs, its target, and whether the target was met. Everything runs on
this machine; the simulators and Redis share its cores, so rates are lower bounds. CPU is the worker's own, user and system.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import httpx
import place
import table
from celery import Celery
from table import Row

from aegis_workers.dispatch.fleet import Fleet, Limits
from aegis_workers.engines import clients
from aegis_workers.engines.base import Readiness
from aegis_workers.local import redis_server
from aegis_workers.routing import Engine, TaskType
from aegis_workers.settings import Settings
from aegis_workers.state import connection, engine_status, keys, mode
from aegis_workers.state.engine_status import ReplicaStatus
from aegis_workers.state.push import Push

NO_REDIS = "redis://127.0.0.1:1/0"
IN_FLIGHT = 64
CALLS = 2_000
BATCH = 32
TEXT = "Ada Stone leads Brightwater Labs in Oslo, file {}. Brightwater Labs acquired Norfield Systems in Bergen last year."
BIG = {"vllm": ("--slots", "256"), "ollama": ("--slots", "256")}


def producer(url: str) -> Celery:
    """A bare Celery application."""
    return Celery("bench", broker=url, backend=url)


def send(app: Celery, number: int, kind: str) -> Any:
    """Enqueue one message of `kind`."""
    match kind:
        case "chat":
            messages = [{"role": "user", "content": f"How long is river {number}?"}]
            return app.send_task("aegis.chat", kwargs={"messages": messages, "version": 1}, queue="chat")
        case "extract":
            return app.send_task("aegis.extract", kwargs={"text": TEXT.format(number), "version": 1}, queue="extraction")
        case _:
            items = [{"custom_id": str(item), "text": TEXT.format(f"{number}-{item}")} for item in range(BATCH)]
            return app.send_task("aegis.extract_batch", kwargs={"items": items, "version": 1}, queue="extraction")


def cpu_s(pid: int) -> float:
    """User and system time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Resident memory of a process, in MB of 1,000,000 bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


def routing(url: str, runs: int) -> Iterator[Row]:
    """The decision at the task boundary, with everything cached."""
    yield Row("routing decision, cached mode", "µs", asyncio.run(_routing_us(url, runs)), 10)


async def _routing_us(url: str, runs: int) -> list[float]:
    settings = Settings(_env_file=None, redis_url=url, vllm_model="sim", ollama_model="sim")
    client = connection.open_async(settings)
    ready = [ReplicaStatus(url=settings.vllm_url[0], state=Readiness.READY)]
    await engine_status.report(client, Engine.VLLM, ready, complete=True)
    modes, statuses = mode.cache(client, settings.llm_engine_mode), engine_status.cache(client)
    engines = clients.build(settings)
    limits = {engine: Limits(limit=1) for engine in Engine}
    fleet = Fleet(clients=engines, limits=limits, policy=settings.fallback)
    found = []
    for _ in range(runs):
        await statuses.read()
        begun = time.perf_counter()
        for _ in range(10_000):
            now_ms = int(time.time() * 1000)
            fleet.decide(TaskType.EXTRACTION, (await modes.read()).value.mode, (await statuses.read()).value, now_ms)
        found.append((time.perf_counter() - begun) / 10_000 * 1e6)
    for replica in (replica for replicas in engines.values() for replica in replicas):
        await replica.aclose()
    await client.aclose()
    return found


def push(url: str, runs: int) -> Iterator[Row]:
    """From the write of the mode to the dropped cache, in an idle process."""
    found = [asyncio.run(_push_ms(url)) for _ in range(runs)]
    yield Row("mode write to cache dropped, p50", "ms", [statistics.median(one) for one in found], None)
    yield Row("mode write to cache dropped, p99", "ms", [sorted(one)[int(len(one) * 0.99)] for one in found], 20)


async def _push_ms(url: str) -> list[float]:
    client, dropped = connection.open_async(Settings(_env_file=None, redis_url=url)), asyncio.Event()
    listener = Push(client, (keys.MODE,), lambda _key: dropped.set())
    task = asyncio.create_task(listener.run())
    await listener.connected.wait()
    found = []
    for number in range(300):
        dropped.clear()
        begun = time.perf_counter()
        await client.set(keys.MODE, ("vllm", "auto")[number % 2])
        await dropped.wait()
        found.append((time.perf_counter() - begun) * 1e3)
    task.cancel()
    await asyncio.wait([task])
    await client.aclose()
    return found


def cpu(url: str, runs: int) -> Iterator[Row]:
    """CPU of the worker and memory after it."""
    options = {engine: BIG[engine] for engine in Engine}
    with place.running(url, ("extraction", "chat"), options, llm_engine_mode="vllm") as here:
        app = producer(url)
        for kind, queue, items, target in (
            ("chat", "chat", 1, 2.5),
            ("extract", "extraction", 1, 2.5),
            ("batch", "extraction", BATCH, 1.3),
        ):
            name = {"chat": "a chat call", "extract": "a single extract call", "batch": f"an item in a batch of {BATCH}"}[kind]
            costs, rates = [], []
            load(app, kind, IN_FLIGHT)
            for _ in range(runs):
                pid, begun_cpu, begun = here.workers[queue].pid, cpu_s(here.workers[queue].pid), time.perf_counter()
                load(app, kind, CALLS // items)
                costs.append((cpu_s(pid) - begun_cpu) / (CALLS // items * items) * 1e3)
                rates.append(CALLS // items * items / (time.perf_counter() - begun))
            yield Row(f"worker CPU, {name}, {IN_FLIGHT} in flight", "ms", costs, target)
            yield Row(f"  its rate, {name}", "1/s", rates, None)
        for queue, worker in here.workers.items():
            yield Row(f"memory of the {queue} worker after it", "MB", [memory_mb(worker.pid)], 150)


def load(app: Celery, kind: str, messages: int) -> None:
    """Enqueue so many messages of `kind`, and wait for all of their results."""
    results = [send(app, number, kind) for number in range(messages)]
    for result in results:
        result.get(timeout=300)


def latency(url: str, runs: int) -> Iterator[Row]:
    """What the way through Redis and the worker adds to a call of the engine itself, in turn, with nothing else going on."""
    options = {Engine.VLLM: ("--call-seconds", "0.05"), Engine.OLLAMA: ()}
    with place.running(url, ("chat",), options, llm_engine_mode="vllm") as here, httpx.Client() as direct:
        app = producer(url)
        body = {"model": "sim", "messages": [{"role": "user", "content": "How long is a river?"}], "max_tokens": 64}
        address = f"{here.url(Engine.VLLM)}/v1/chat/completions"

        def whole() -> None:
            direct.post(address, json=body).raise_for_status()

        pairs = [(_ms(whole), _ms(lambda: send(app, 0, "chat").get(timeout=20, interval=0.001))) for _ in range(40 * runs)]
        yield Row("added to a chat call, p50", "ms", [statistics.median(through - alone for alone, through in pairs[5:])], 10)
        yield from _first_text(here.settings, direct, address, body, runs)


def _first_text(settings: Settings, direct: httpx.Client, address: str, body: Mapping[str, Any], runs: int) -> Iterator[Row]:
    reader = (
        "import sys, time\nfrom aegis_workers import chat_stream\n"
        "for _ in range(int(sys.argv[1])):\n"
        "    begun = time.perf_counter()\n"
        "    pieces = chat_stream([{'role': 'user', 'content': 'How long is a river?'}], {'max_tokens': 64})\n"
        "    next(pieces)\n    print((time.perf_counter() - begun) * 1e3)\n    list(pieces)\n"
    )
    command = [sys.executable, "-c", reader, str(20 * runs)]
    env = {**os.environ, "AEGIS_REDIS_URL": settings.redis_url}
    through = subprocess.run(command, env=env, capture_output=True, text=True, check=True)  # noqa: S603 - this package

    def first() -> None:
        with direct.stream("POST", address, json={**body, "stream": True}) as answer:
            next(line for line in answer.iter_lines() if '"content":"' in line and '"content":""' not in line)

    alone = statistics.median(_ms(first) for _ in range(20 * runs))
    yield Row(
        "first streamed text later than direct, p50",
        "ms",
        [statistics.median(map(float, through.stdout.split()[5:])) - alone],
        20,
    )


def _ms(act: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    act()
    return (time.perf_counter() - begun) * 1e3


def engines(url: str, _runs: int) -> Iterator[Row]:
    """The reason for two engines: the same 200 texts in both modes, at the speeds of Red Hat's figures (41 and 793 tokens/s)."""
    speeds = {Engine.OLLAMA: ("--slots", "4", "--tokens-per-s", "41"), Engine.VLLM: ("--slots", "256", "--tokens-per-s", "793")}
    rates = {}
    with place.running(url, ("extraction",), speeds, worker_threads=256) as here:
        app = producer(url)
        for engine in (Engine.VLLM, Engine.OLLAMA):
            here.redis.set(keys.MODE, engine.value)
            begun = time.perf_counter()
            sent = [
                app.send_task(
                    "aegis.extract",
                    kwargs={"text": f"we saw Bo Hill again, for the {n}th time.", "version": 1},
                    queue="extraction",
                )
                for n in range(200)
            ]
            tokens = sum(result.get(timeout=900)["usage"]["completion_tokens"] for result in sent)
            rates[engine] = 200 / (time.perf_counter() - begun)
            yield Row(f"200 texts of {tokens / 200:.0f} answer tokens, mode {engine}", "items/s", [rates[engine]], None)
    yield Row("  ratio of the two (the engines allow 19.3)", "", [rates[Engine.VLLM] / rates[Engine.OLLAMA]], None)


PARTS: Mapping[str, Callable[[str, int], Iterator[Row]]] = {
    "routing": routing,
    "push": push,
    "cpu": cpu,
    "latency": latency,
    "engines": engines,
}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each figure.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(parts: Sequence[str], *, runs: int, as_json: bool) -> None:
    """Measure PARTS of the main path, by default all of them."""
    with redis_server.running(NO_REDIS) as server:
        table.show(server.url, [row for part in parts or PARTS for row in PARTS[part](server.url, runs)], as_json=as_json)


if __name__ == "__main__":
    main()
