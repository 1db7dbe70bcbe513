"""How full the worker keeps an engine, and what that costs: `scripts/bench/saturation`, or some of its parts.

Rates are counted by the simulators, in a steady state: after every slot was taken, while more work waits than fits. Beside each
runs what bounds any worker, a bare asyncio and aiohttp script on the same simulator.
"""

import asyncio
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
import place
import table
from celery import Celery
from table import Row

from aegis_workers.dispatch.admission import Admission
from aegis_workers.dispatch.delivery import Delivery
from aegis_workers.dispatch.fleet import Fleet, Limits
from aegis_workers.engines import clients
from aegis_workers.engines.base import Readiness
from aegis_workers.local import redis_server
from aegis_workers.routing import Engine, Mode, Policy, TaskType
from aegis_workers.settings import Settings
from aegis_workers.state import connection, engine_status
from aegis_workers.state import mode as modes
from aegis_workers.state.engine_status import ReplicaStatus
from aegis_workers.state.slots import Slots
from aegis_workers.worker import garbage

BATCH = 32
WARM_UP_S = 6.0
WINDOW_S = 30.0
# How long a call takes beside which chats are timed, how many of those a run sends, and how far apart: no more are in flight
# than slots are kept.
CALL_S = 2.0
CHATS = 40
ASK_EVERY_S = 0.5
QUESTION = "How long is a river?"
TEXT = "Ada Stone leads Brightwater Labs in Oslo, file {}."
BARE = Path(__file__).with_name("bare.py")
# Celery's own commands: its queue, its unacknowledged messages, its results. What it adds to and takes from sorted sets (one each
# a message) is counted with ours, which have the same names.
CELERYS = frozenset({"brpop", "blmove", "lpush", "rpush", "lrem", "hset", "hdel", "multi", "exec", "publish"})

# Of a command that runs less often than this a call, the table says nothing.
RARE = 0.01


@contextmanager
def loaded(
    here: place.Place, engine: Engine, slots: int, calls_per_s: float, *, spread_s: float = 0.0, seconds: float = 2 * WINDOW_S
) -> Iterator[None]:
    """More extraction than `engine` can do for the `seconds` that the block may take; returns when every slot is taken.

    With `spread_s` the first calls come over that time, and not all at once: calls that all take as long stay in step for ever.
    """
    app = Celery("bench", broker=here.settings.redis_url, backend=here.settings.redis_url)
    batches = round(calls_per_s * (2 * WARM_UP_S + seconds) / BATCH) + 2 * slots // BATCH + 2
    for number in range(batches):
        items = [{"custom_id": str(item), "text": TEXT.format(f"{number}-{item}")} for item in range(BATCH)]
        app.send_task("aegis.extract_batch", kwargs={"items": items, "version": 1}, queue="extraction", ignore_result=True)
        if spread_s and number * BATCH < slots:
            time.sleep(spread_s * BATCH / slots)
    deadline = time.monotonic() + 30
    while here.count(engine)["in_flight"] < slots:
        here.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {here.count(engine)['in_flight']} of {slots} slots were taken within 30 s")
        time.sleep(0.05)
    time.sleep(WARM_UP_S)
    yield


def rate(here: place.Place, engine: Engine) -> float:
    """Calls that the engine completes in a second, by its own count."""
    begun, before = time.perf_counter(), here.count(engine)["completed"]
    time.sleep(WINDOW_S)
    return (here.count(engine)["completed"] - before) / (time.perf_counter() - begun)


def bare_rate(here: place.Place, engine: Engine, slots: int) -> float:
    """The same, asked by the bare script."""
    command = [sys.executable, str(BARE), here.url(engine), str(slots), str(WARM_UP_S + WINDOW_S + 2)]
    with subprocess.Popen(command) as script:  # noqa: S603 - it lies beside this file
        time.sleep(WARM_UP_S)
        found = rate(here, engine)
        script.wait(60)
    return found


def _saturation(url: str, runs: int, *, slots: int, mean_s: float, variation: float, target: float) -> Iterator[Row]:
    ceiling = slots / mean_s
    options = ("--slots", str(2 * slots), "--call-seconds", str(mean_s), "--call-seconds-cv", str(variation))
    name = f"{slots} slots, {mean_s:g} s a call" + (f", CV {variation:g}" if variation else "")
    shares, ratios, highest = [], [], 0
    for _ in range(runs):
        limits = {"vllm_limit": slots, "vllm_interactive_slots": 0, "llm_engine_mode": "vllm"}
        with place.running(url, ("extraction",), {Engine.VLLM: options}, **limits) as here:
            with loaded(here, Engine.VLLM, slots, ceiling):
                found = rate(here, Engine.VLLM)
            highest = max(highest, here.count(Engine.VLLM)["max_in_flight"])
        with place.running(url, (), {Engine.VLLM: options}) as here:
            bare = bare_rate(here, Engine.VLLM, slots)
        shares.append(100 * found / ceiling)
        ratios.append(100 * found / bare)
    yield Row(f"{name}: of the ceiling of {ceiling:g} calls/s", "%", shares, target, at_least=True)
    yield Row("  of what the bare script reaches", "%", ratios, 98, at_least=True)
    yield Row("  most calls in flight, by the engine's count", "", [highest], slots)


def fixed(url: str, runs: int) -> Iterator[Row]:
    """Every call takes as long as the others."""
    yield from _saturation(url, runs, slots=256, mean_s=2.0, variation=0.0, target=97)


def varied(url: str, runs: int) -> Iterator[Row]:
    """Call times are spread log-normally."""
    yield from _saturation(url, runs, slots=256, mean_s=2.0, variation=1.0, target=92)


def few(url: str, runs: int) -> Iterator[Row]:
    """As many calls at a time as an Ollama takes."""
    yield from _saturation(url, runs, slots=4, mean_s=0.5, variation=0.0, target=98)


def commands(url: str, _runs: int) -> Iterator[Row]:
    """Redis commands of a call, those inside of scripts too."""
    options = ("--slots", "512", "--call-seconds", "2")
    with (
        place.running(url, ("extraction",), {Engine.VLLM: options}, llm_engine_mode="vllm", vllm_interactive_slots=0) as here,
        loaded(here, Engine.VLLM, 256, 128.0),
    ):
        before, calls = _commands(here), here.count(Engine.VLLM)["completed"]
        time.sleep(WINDOW_S)
        after = _commands(here)
        calls = here.count(Engine.VLLM)["completed"] - calls
        used = {name: (after[name] - before.get(name, 0)) / calls for name in after}
    own = {name: count for name, count in used.items() if name not in CELERYS and count >= RARE}
    yield Row("Redis commands a call, Celery's excluded", "", [sum(own.values())], 6)
    for name, count in sorted(own.items(), key=lambda found: -found[1]):
        yield Row(f"  {name}", "", [count], None)


def _commands(here: place.Place) -> Mapping[str, int]:
    found: Mapping[str, Any] = here.redis.info("commandstats")
    return {name.removeprefix("cmdstat_").lower(): stats["calls"] for name, stats in found.items()}


def chat(url: str, runs: int) -> Iterator[Row]:
    """What bulk at saturation adds to a chat call while a slot kept for it is free, and to a bare request to the same engine.

    The second is the simulator's own: it answers hundreds of calls on one core, and on no other than the workers have.
    """
    options = ("--slots", "512", "--call-seconds", str(CALL_S))
    with place.running(url, ("extraction", "chat"), {Engine.VLLM: options}, llm_engine_mode="vllm") as here:
        asked: Mapping[str, Callable[[], None]] = {
            "chat call": _chat(here),
            "bare request to the engine": _bare_chat(here.url(Engine.VLLM)),
        }
        alone = _times(asked, CHATS)
        bulk, seconds = 256 - here.settings.kept(Engine.VLLM), runs * (2 * CHATS * ASK_EVERY_S + 2 * CALL_S)
        with loaded(here, Engine.VLLM, bulk, 256 / CALL_S, spread_s=CALL_S, seconds=seconds):
            beside = [_times(asked, CHATS) for _ in range(runs)]
    for name in asked:
        base = statistics.median(alone[name])
        found = [statistics.quantiles(times[name], n=20) for times in beside]
        yield Row(f"added to a {name} by bulk at saturation, p50", "ms", [one[9] - base for one in found], None)
        yield Row("  p95", "ms", [one[-1] - base for one in found], 25 if name == "chat call" else None)
    yield Row("  p95 of a chat call with no bulk, over its p50", "ms", [_p95_over_p50(alone["chat call"])], None)


def _p95_over_p50(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=20)[-1] - statistics.median(times)


def _chat(here: place.Place) -> Callable[[], None]:
    app = Celery("bench", broker=here.settings.redis_url, backend=here.settings.redis_url)

    def ask() -> None:
        messages = [{"role": "user", "content": QUESTION}]
        app.send_task("aegis.chat", kwargs={"messages": messages, "version": 1}, queue="chat").get(timeout=60, interval=0.001)

    return ask


def _bare_chat(url: str) -> Callable[[], None]:
    client = httpx.Client(base_url=url, timeout=60, trust_env=False)
    body = {"model": place.MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 64}

    def ask() -> None:
        client.post("/v1/chat/completions", json=body).raise_for_status()

    return ask


def _times(asked: Mapping[str, Callable[[], None]], count: int) -> Mapping[str, Sequence[float]]:
    """Milliseconds that each took, `count` times, in turn: one begins before the last has its answer, and none in step."""
    times: dict[str, list[float]] = {name: [] for name in asked}

    def timed(name: str) -> None:
        begun = time.perf_counter()
        asked[name]()
        times[name].append((time.perf_counter() - begun) * 1e3)

    threads = [threading.Thread(target=timed, args=[name]) for _ in range(count) for name in asked]
    for thread in threads:
        thread.start()
        time.sleep(ASK_EVERY_S * random.uniform(0.5, 1.5))  # noqa: S311 - nothing secret
    for thread in threads:
        thread.join()
    return times


def admission(url: str, runs: int) -> Iterator[Row]:
    """What the task boundary takes, at 128 calls/s and 256 in flight, where no call waits for a slot."""
    found = [asyncio.run(_admission_ms(url)) for _ in range(runs)]
    yield Row("admission, p50", "ms", [statistics.median(one) for one in found], 1)
    yield Row("admission, p99", "ms", [statistics.quantiles(one, n=100)[-1] for one in found], 5)
    empty = [asyncio.run(_round_trip_ms(url)) for _ in range(runs)]
    yield Row(
        "  a round trip to Redis at the same pace that does nothing, p50", "ms", [statistics.median(one) for one in empty], None
    )
    yield Row("  the same, p99", "ms", [statistics.quantiles(one, n=100)[-1] for one in empty], None)
    bare = [_machine_ms() for _ in range(runs)]
    yield Row("  JSON alone at the same pace, with no other process, p50", "ms", [statistics.median(one) for one in bare], None)
    yield Row("  the same, p99", "ms", [statistics.quantiles(one, n=100)[-1] for one in bare], None)


def _machine_ms() -> list[float]:
    """What the machine takes for as much work as an exchange of slots is, and does alone: its tail is nobody's but its own."""
    times = []
    for _ in range(128 * 9):
        time.sleep(1 / 128)
        begun = time.perf_counter()
        for _ in range(12):
            json.loads(json.dumps({"a": [1, 2, 3] * 20, "b": "x" * 200}))
        times.append((time.perf_counter() - begun) * 1e3)
    return times


async def _round_trip_ms(url: str) -> list[float]:
    """What this machine asks of whoever wakes another process and is woken by it: the rest is the task boundary's own."""
    client = connection.open_quick(Settings(_env_file=None, redis_url=url))
    times = []
    for _ in range(128 * 9):
        await asyncio.sleep(1 / 128)
        begun = time.perf_counter()
        await client.ping()
        times.append((time.perf_counter() - begun) * 1e3)
    await client.aclose()
    return times


async def _admission_ms(url: str) -> list[float]:
    settings = Settings(_env_file=None, redis_url=url, vllm_model="sim", llm_engine_mode=Mode.VLLM, vllm_limit=512)
    client = connection.open_async(settings)
    await client.flushdb()
    await modes.write_default(client, Mode.VLLM)
    ready = [ReplicaStatus(url=settings.vllm_url[0], state=Readiness.READY)]
    await engine_status.report(client, Engine.VLLM, ready, complete=True)
    fleet = Fleet(
        clients=clients.build(settings), limits={e: Limits(limit=settings.limit(e)) for e in Engine}, policy=Policy.HOLD
    )
    at_boundary = connection.open_quick(settings)
    slots = Slots(at_boundary, "bench", trial_s=60)
    place = Admission(fleet, modes.cache(client, Mode.VLLM), engine_status.cache(client), slots)
    pump = asyncio.create_task(place.run())
    garbage.settle()
    times: list[float] = []

    async def call(number: int) -> None:
        begun = time.perf_counter()
        async with place.slot(TaskType.EXTRACTION, Delivery(task_id=str(number)).call()):
            times.append((time.perf_counter() - begun) * 1e3)
            await asyncio.sleep(2)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(128 * 12):
            await asyncio.sleep(max(0.0, begun + number / 128 - time.perf_counter()))
            group.create_task(call(number))
    while not pump.done():  # redis-py can swallow a cancellation that comes with an answer
        pump.cancel()
        await asyncio.wait([pump], timeout=0.1)
    await at_boundary.aclose()
    await client.aclose()
    return times[128 * 3 :]


PARTS: Mapping[str, Callable[[str, int], Iterator[Row]]] = {
    "fixed": fixed,
    "varied": varied,
    "few": few,
    "admission": admission,
    "commands": commands,
    "chat": chat,
}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each figure.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(parts: Sequence[str], *, runs: int, as_json: bool) -> None:
    """Measure PARTS of how full engines are kept, by default all of them."""
    with redis_server.running("redis://127.0.0.1:1/0") as server:
        table.show(server.url, [row for part in parts or PARTS for row in PARTS[part](server.url, runs)], as_json=as_json)


if __name__ == "__main__":
    main()
