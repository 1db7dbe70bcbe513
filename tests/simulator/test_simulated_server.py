import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any
from urllib.request import Request, urlopen

import aiohttp
import pytest
from simulated import HELLO, StillClock, until

from aegis_workers.simulator.server import Options, start

RUN = "from aegis_workers.simulator.server import Options, run; run(Options({}))"


@contextmanager
def process(options: str) -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    """A simulator in a process of its own, its address, and the line that it printed."""
    with subprocess.Popen([sys.executable, "-c", RUN.format(options)], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            line = child.stdout.readline()
            found = re.search(r"http://\S+\d", line)
            assert found is not None, line
            yield child, found.group(), line
        finally:
            child.kill()


def post(url: str, body: Any) -> Any:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 - loopback
    with urlopen(request, timeout=20) as response:  # noqa: S310
        return json.load(response)


def get(url: str) -> Any:
    with urlopen(url, timeout=20) as response:  # noqa: S310 - loopback
        return json.load(response)


@pytest.mark.parametrize("engine", ["vllm", "ollama"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_what_it_is_not_and_ends_cleanly_at_a_signal(engine: str, number: signal.Signals) -> None:
    with process(f"engine={engine!r}") as (child, _, line):
        assert "not a language model" in line
        child.send_signal(number)
        assert child.wait(10) == 0
        assert child.stdout is not None
        assert child.stdout.read() == ""


def test_sigterm_ends_calls_in_flight_with_abort() -> None:
    with process("engine='vllm', tokens_per_s=1") as (child, url, _):

        async def scenario() -> Any:
            call = asyncio.create_task(asyncio.to_thread(post, f"{url}/v1/chat/completions", HELLO))
            async with asyncio.timeout(20):
                while (await asyncio.to_thread(get, f"{url}/_sim/stats"))["running"] != 1:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.01)
            child.send_signal(signal.SIGTERM)
            return await call

        assert asyncio.run(scenario())["choices"][0]["finish_reason"] == "abort"
        assert child.wait(10) == 0


def test_death_ends_the_process_as_a_kill_does() -> None:
    with process("engine='ollama'") as (child, url, _):
        post(f"{url}/_sim/behaviour", {"die": "on_call"})
        with pytest.raises((ConnectionError, HTTPException)):
            post(f"{url}/api/chat", HELLO)
        assert child.wait(10) == 137


def test_a_starting_vllm_refuses_connections_until_it_is_ready() -> None:
    async def scenario() -> None:
        clock = StillClock()
        running = await start(Options(engine="vllm", start_seconds=60), clock=clock)
        async with aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.ClientConnectorError):
                await http.get(f"{running.url}/health")
            await until(lambda: clock.timers == 1)
            await clock.advance(60)
            await running.ready()
            async with http.get(f"{running.url}/health") as response:
                assert response.status == 200
        await running.stop()

    asyncio.run(scenario())


def test_a_starting_vllm_can_be_stopped() -> None:
    async def scenario() -> None:
        running = await start(Options(engine="vllm", start_seconds=60))
        await running.stop()
        await running.stop()

    asyncio.run(scenario())


def test_a_port_that_is_taken_is_an_os_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        async def scenario() -> None:
            with pytest.raises(OSError, match="in use"):
                await start(Options(engine="vllm", port=port))

        asyncio.run(scenario())
