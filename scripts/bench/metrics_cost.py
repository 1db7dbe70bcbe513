"""What metrics cost a worker: its CPU an item without them and with them, in turn, in one run.

Two installations of one worker each run side by side, one with a port for metrics and one without; the load goes to the one and
then to the other, and the other one is idle. The one with a port is scraped every `SCRAPE_EVERY_S` all the time. Single runs
differ by more than metrics cost: so the median over pairs is shown, and what telling and counting one call takes by itself.
"""

import contextlib
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import click
import main_path
import place
import table
from celery import Celery
from place import Place
from prometheus_client import CollectorRegistry
from table import Row

from aegis_workers import telemetry
from aegis_workers.local import process, redis_server
from aegis_workers.metrics import counted
from aegis_workers.metrics.meter import Meter
from aegis_workers.outcome import Status
from aegis_workers.routing import Because, Engine, TaskType
from aegis_workers.telemetry import AttemptEnded, CallAdmitted, CallFinished, SlotsExchanged

SCRAPE_EVERY_S = 5.0
TARGET_PERCENT = 2
CALLS = {"chat": 1_000, "batch": 3_200}
_ITEMS = {"chat": 1, "batch": main_path.BATCH}
_QUEUE = {"chat": "chat", "batch": "extraction"}
_TOLD = 20_000


def told(_: int) -> Iterator[Row]:
    """What one call's facts take: four of them where every call is admitted by itself."""
    found = [_told_us(Meter(counted.OF_WORKER, CollectorRegistry()).hear) for _ in range(5)]
    yield Row("telling and counting one call", "µs", found, None)


def _told_us(listener: telemetry.Listener) -> float:
    with telemetry.heard_by(listener):
        begun = time.thread_time()
        for _ in range(_TOLD):
            telemetry.tell(SlotsExchanged(engine=Engine.VLLM, took_s=0.001, refusals=()))
            telemetry.tell(
                CallAdmitted(task_type=TaskType.EXTRACTION, engine=Engine.VLLM, because=Because.FIRST_CHOICE, waited_s=0.02)
            )
            telemetry.tell(AttemptEnded(task_type=TaskType.EXTRACTION, engine=Engine.VLLM, error=None, took_s=1.5))
            telemetry.tell(
                CallFinished(
                    task_type=TaskType.EXTRACTION,
                    engine=Engine.VLLM,
                    status=Status.OK,
                    prompt_tokens=300,
                    completion_tokens=40,
                )
            )
        return (time.thread_time() - begun) / _TOLD * 1e6


def cost(kind: str, pairs: int) -> Iterator[Row]:
    """CPU of the worker, in turn."""
    with ExitStack() as stack:
        bare, shown = (stack.enter_context(_running(kind, port)) for port in (None, str(process.free_port())))
        stack.enter_context(_scraped(shown))
        apps = {here.settings.redis_url: main_path.producer(here.settings.redis_url) for here in (bare, shown)}
        for here in (bare, shown):
            _cpu_ms(here, apps, kind)
        found = [_pair(bare, shown, apps, kind, swapped=bool(number % 2)) for number in range(pairs)]
    name = {"chat": "a chat call", "batch": f"an item in a batch of {main_path.BATCH}"}[kind]
    yield Row(f"worker CPU, {name}, without metrics", "ms", [without for without, _ in found], None)
    yield Row("  with metrics", "ms", [with_ for _, with_ in found], None)
    yield Row("  more, by pair", "%", [100 * (with_ / without - 1) for without, with_ in found], TARGET_PERCENT)
    total = 100 * (sum(with_ for _, with_ in found) / sum(without for without, _ in found) - 1)
    yield Row("  more, all pairs together", "%", [total], TARGET_PERCENT)


def _pair(bare: Place, shown: Place, apps: Mapping[str, Celery], kind: str, *, swapped: bool) -> tuple[float, float]:
    """Every second pair in the other order, so that neither is always the one that finds the machine warm."""
    if swapped:
        with_, without = _cpu_ms(shown, apps, kind), _cpu_ms(bare, apps, kind)
    else:
        without, with_ = _cpu_ms(bare, apps, kind), _cpu_ms(shown, apps, kind)
    return without, with_


def _cpu_ms(here: Place, apps: Mapping[str, Celery], kind: str) -> float:
    """Of the worker, an item."""
    pid, messages = here.workers[_QUEUE[kind]].pid, CALLS[kind] // _ITEMS[kind]
    begun = main_path.cpu_s(pid)
    main_path.load(apps[here.settings.redis_url], kind, messages)
    return (main_path.cpu_s(pid) - begun) / (messages * _ITEMS[kind]) * 1e3


@contextmanager
def _running(kind: str, port: str | None) -> Iterator[Place]:
    with redis_server.running(main_path.NO_REDIS) as server:
        options = {Engine.VLLM: main_path.BIG[Engine.VLLM]}
        with place.running(server.url, (_QUEUE[kind],), options, llm_engine_mode="vllm", metrics_port=port) as here:
            yield here


@contextmanager
def _scraped(here: Place) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=_scrape, args=[f"http://127.0.0.1:{here.settings.metrics_port}/metrics", over])
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _scrape(url: str, over: threading.Event) -> None:
    while not over.wait(SCRAPE_EVERY_S):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - on loopback
            response.read()


PARTS: Mapping[str, Callable[[int], Iterator[Row]]] = {
    "told": told,
    "chat": partial(cost, "chat"),
    "batch": partial(cost, "batch"),
}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--runs", type=click.IntRange(min=1), default=8, show_default=True, help="Pairs of each figure.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(parts: Sequence[str], *, runs: int, as_json: bool) -> None:
    """Measure PARTS of what metrics cost, by default all of them."""
    with redis_server.running(main_path.NO_REDIS) as server:
        table.show(server.url, [row for part in parts or PARTS for row in PARTS[part](runs)], as_json=as_json)


if __name__ == "__main__":
    main()
