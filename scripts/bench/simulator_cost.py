"""CPU that a simulator costs a call: its process's time over keep-alive calls, 64 in flight from a client in another process.

An extraction reads 1,100 characters with 10 names, each text a new one.
"""

import asyncio
import multiprocessing
import resource
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Literal

import aiohttp
import click
import table
from table import Row

from aegis_workers.simulator import server

CALLS = 4000
IN_FLIGHT = 64
WARM_UP = 200

TEXT = (
    "Marie Curie was born in Warsaw. She joined the University of Paris, where she founded the Radium Institute with "
    "Claudius Regaud. Siemens acquired Mentor Graphics in 2017, and the contract was signed in Berlin by Hans Weber. "
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "entities": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "type": {"type": "string"},
                    "description": {"type": "string"},
                    "confidence": {"type": "number", "minimum": 0, "maximum": 1},
                    "mentions": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["name", "type", "description", "confidence", "mentions"],
            },
        }
    },
    "required": ["entities"],
}
Engine = Literal["vllm", "ollama"]
ENGINES: tuple[Engine, ...] = ("vllm", "ollama")
KINDS = ("chat", "stream", "extraction")


def body(engine: Engine, kind: str, number: int) -> dict[str, Any]:
    """One request; extraction texts all differ, so that no reading is remembered."""
    extracts = kind == "extraction"
    content = f"<text>{TEXT * 5} Document {number}.</text>" if extracts else f"How do you do, number {number}?"
    request: dict[str, Any] = {
        "model": "sim",
        "messages": [{"role": "user", "content": content}],
        "stream": kind == "stream",
    }
    if not extracts:
        return request
    if engine == "ollama":
        return request | {"format": SCHEMA}
    return request | {"response_format": {"type": "json_schema", "json_schema": {"name": "entities", "schema": SCHEMA}}}


async def serve(engine: Engine, pipe: Connection) -> None:
    """Run a simulator; at each message from the pipe, tell the CPU seconds used so far."""
    running = await server.start(server.Options(engine=engine, slots=IN_FLIGHT))
    pipe.send(running.url)
    while await asyncio.to_thread(pipe.recv):
        used = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send(used.ru_utime + used.ru_stime)
    await running.stop()


def run_server(engine: Engine, pipe: Connection) -> None:
    """The server process."""
    asyncio.run(serve(engine, pipe))


async def load(url: str, engine: Engine, kind: str, calls: int) -> None:
    """Make the calls, `IN_FLIGHT` at a time."""
    numbers = iter(range(calls))
    path = "/v1/chat/completions" if engine == "vllm" else "/api/chat"

    async def caller(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            async with session.post(url + path, json=body(engine, kind, number)) as response:
                await response.read()
                response.raise_for_status()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as session:
        await asyncio.gather(*(caller(session) for _ in range(IN_FLIGHT)))


def cpu_s(pipe: Connection) -> float:
    """CPU seconds of the server so far."""
    pipe.send(True)  # noqa: FBT003 - a message, not a flag
    return float(pipe.recv())


def measure(engine: Engine, kind: str) -> float:
    """CPU milliseconds a call."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=run_server, args=(engine, theirs))
    process.start()
    url = ours.recv()
    asyncio.run(load(url, engine, kind, WARM_UP))
    before_s = cpu_s(ours)
    asyncio.run(load(url, engine, kind, CALLS))
    used_s = cpu_s(ours) - before_s
    ours.send(False)  # noqa: FBT003
    process.join()
    return used_s / CALLS * 1000


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(ENGINES))
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each figure.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(parts: Sequence[Engine], *, runs: int, as_json: bool) -> None:
    """Measure the simulators of PARTS, by default of both engines."""
    kinds = [(engine, kind) for engine in parts or ENGINES for kind in KINDS]
    rows = [
        Row(f"{engine} simulator, {kind}", "ms", [measure(engine, kind) for _ in range(runs)], None) for engine, kind in kinds
    ]
    table.show(None, rows, as_json=as_json)


if __name__ == "__main__":
    main()
