"""Where a worker or a controller shows its metrics, and what becomes of a port that cannot be had."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import httpx
import pytest

from aegis_workers import telemetry
from aegis_workers.metrics import counted, exposition, read
from aegis_workers.metrics.metric import Kind, Metric
from aegis_workers.metrics.read import Reading
from aegis_workers.settings import Settings
from aegis_workers.telemetry import WorkerDied

pytestmark = pytest.mark.anyio

LEVEL = Metric(name="aegis_level", kind=Kind.GAUGE, help="A level.")


def chosen(ports: str | None) -> Settings:
    return Settings(_env_file=None, metrics_port=ports)


@contextmanager
def taken() -> Iterator[tuple[socket.socket, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener, listener.getsockname()[1]


async def shown(port: int) -> str:
    async with httpx.AsyncClient() as http:
        for _ in range(1000):
            try:
                return (await http.get(f"http://127.0.0.1:{port}/metrics")).text
            except httpx.TransportError:
                await asyncio.sleep(0.01)
    raise AssertionError("nobody listens")


def exposed(settings: Settings, source: read.Source = tuple) -> AbstractAsyncContextManager[None]:
    return exposition.exposed(settings, read.registry("worker", "chat"), counted.OF_WORKER, source)


async def test_without_a_port_nothing_is_counted() -> None:
    async with exposed(chosen(None)):
        assert telemetry._listeners == []


async def test_what_is_told_and_what_is_read_is_shown_at_the_port() -> None:
    with taken() as (listener, port):
        listener.close()
        async with exposed(chosen(str(port)), lambda: [Reading(metric=LEVEL, values={(): 7.0})]):
            telemetry.tell(WorkerDied())
            text = await shown(port)
    assert "aegis_worker_deaths_total 1.0" in text
    assert "aegis_level 7.0" in text
    assert "process_cpu_seconds_total" in text
    assert "_created" not in text
    assert telemetry._listeners == []


async def test_a_port_in_use_is_waited_for_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "_AGAIN_S", 0.01)
    refused = asyncio.Event()
    monkeypatch.setattr(exposition.log, "warning", lambda *_, **__: refused.set())
    with taken() as (listener, port):
        async with exposed(chosen(str(port))):
            await refused.wait()
            listener.close()
            assert "aegis_build_info" in await shown(port)


async def test_of_several_ports_the_first_free_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    served: asyncio.Queue[int] = asyncio.Queue()
    monkeypatch.setattr(exposition.log, "info", lambda _event, *, port, **_: served.put_nowait(port))
    with taken() as (_, port):
        async with exposed(chosen(f"{port}-{port + 20}")):
            found = await served.get()
            assert port < found <= port + 20
            assert "aegis_build_info" in await shown(found)


async def test_a_source_that_fails_hides_nothing_but_itself() -> None:
    def broken() -> Iterator[Reading]:
        raise RuntimeError("a fault")

    with taken() as (listener, port):
        listener.close()
        async with exposed(chosen(str(port)), broken):
            assert "aegis_worker_deaths_total 0.0" in await shown(port)


@pytest.mark.parametrize("word", ["9464", "0", "9464-9479", " 9464 - 9470 "])
def test_ports_that_can_be_chosen(word: str) -> None:
    assert chosen(word).metrics_port is not None


@pytest.mark.parametrize("word", ["http", "70000", "9479-9464", "0-3", "1000-2000", "-1", "9464,9465"])
def test_ports_that_make_no_sense_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="write a port"):
        chosen(word)
