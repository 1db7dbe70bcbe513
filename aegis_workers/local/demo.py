"""`aegis-workers demo`: the whole system around a handful of texts, and what was extracted from them."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
from celery.result import AsyncResult
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from aegis_workers.celery import app
from aegis_workers.engines import clients
from aegis_workers.engines.base import Probe, Readiness
from aegis_workers.errors import AegisError, InvalidInput
from aegis_workers.local import documents, report, system, terminal
from aegis_workers.local.documents import Document
from aegis_workers.local.system import System
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.tasks import extract
from aegis_workers.worker import brokerage

POLL_INTERVAL_S = 0.05
# A demo that is interrupted does not wait for its calls: nobody will see their results.
SHUTDOWN_GRACE_S = 1.0
INTERRUPTED = 130

Line = dict[str, Any]


def demo(settings: Settings, files: Sequence[Path], engine: Engine | None, output: Path | None) -> int:
    """Extract from `files` (none: the bundled samples) on `engine` if it is usable, else on simulators, and print the result.

    The result lines go to `output`, by default a temporary file. Returns the exit status: 0 where every document was read to
    its end, 1 where one was not or a part of the system failed, 2 where a file cannot be used (nothing is started then).
    """
    out, err = terminal.console(), terminal.console(stderr=True)
    try:
        read = documents.read(files or documents.samples(), max_bytes=settings.max_text_bytes)
        _check_writable(output)
    except InvalidInput as error:
        terminal.say(err, str(error))
        return 2
    try:
        lines, elapsed_s = _run(settings, read, engine, out)
    except KeyboardInterrupt:
        terminal.say(err, "Interrupted; everything was stopped.")
        return INTERRUPTED
    except AegisError as error:
        terminal.say(err, str(error))
        return 1
    _show(lines, elapsed_s, _write(lines, output), out)
    return 0 if all(map(report.is_complete, lines)) else 1


def _run(settings: Settings, read: Sequence[Document], engine: Engine | None, out: Console) -> tuple[list[Line], float]:
    """The result lines of the documents, in their order, and how long they took altogether, in seconds."""
    settings, simulated = _engines(settings, engine, out)
    with terminal.interruptible(), system.running(settings, simulated=simulated) as running:
        terminal.announce(running, out)
        started = time.monotonic()
        lines = _extract(running, read, out)
        return lines, time.monotonic() - started


def _engines(settings: Settings, engine: Engine | None, out: Console) -> tuple[Settings, Collection[Engine]]:
    """The settings to run with, and the engines to simulate: all of them, unless `engine` can be used."""
    quick = settings.model_copy(update={"shutdown_grace_s": SHUTDOWN_GRACE_S})
    if engine is None:
        return quick, tuple(Engine)
    problem = unusable(settings, engine)
    if problem is not None:
        terminal.say(out, f"{engine.label} cannot be used ({problem}); simulators stand in for both engines.")
        return quick, tuple(Engine)
    return quick.model_copy(update={f"{engine.other}_model": None, "llm_engine_mode": Mode(engine.value)}), ()


def unusable(settings: Settings, engine: Engine) -> str | None:
    """Why `engine` cannot serve calls now, in words; None if one of its replicas can."""
    if settings.model(engine) is None:
        return f"AEGIS_{engine.upper()}_MODEL is not set"
    probes = anyio.run(_probe, settings, engine)
    if any(probe.readiness is Readiness.READY for probe in probes):
        return None
    return "; ".join(f"{url}: {probe.reason}" for url, probe in zip(settings.urls(engine), probes, strict=True))


async def _probe(settings: Settings, engine: Engine) -> list[Probe]:
    replicas = clients.build(settings)[engine]
    try:
        return [await replica.probe() for replica in replicas]
    finally:
        for replica in replicas:
            await replica.aclose()


def _extract(running: System, read: Sequence[Document], out: Console) -> list[Line]:
    # This process read its settings before it was known which Redis would be used.
    app.conf.update(brokerage.addresses(running.settings))
    if not out.is_terminal:
        return _collect(running, read, lambda line, done: terminal.say(out, f"{done}/{len(read)} {line['custom_id']}"))
    columns = (TextColumn("Extracting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        bar = progress.add_task("", total=len(read))
        return _collect(running, read, lambda _line, done: progress.update(bar, completed=done))


def _collect(running: System, read: Sequence[Document], on_done: Callable[[Line, int], None]) -> list[Line]:
    """Enqueues every document and waits for all of them; `on_done` is told of each that ends, and how many have."""
    started = time.monotonic()
    pending: dict[str, AsyncResult] = {document.custom_id: extract.delay(document.text) for document in read}
    lines: dict[str, Line] = {}
    while pending:
        for custom_id, result in [(custom_id, result) for custom_id, result in pending.items() if result.ready()]:
            elapsed_s = time.monotonic() - started
            lines[custom_id] = _line(custom_id, pending.pop(custom_id), elapsed_s, simulated=bool(running.simulated))
            on_done(lines[custom_id], len(lines))
            result.forget()
        running.check()
        time.sleep(POLL_INTERVAL_S)
    return [lines[document.custom_id] for document in read]


def _line(custom_id: str, result: AsyncResult, elapsed_s: float, *, simulated: bool) -> Line:
    value: Any = result.get(propagate=False)
    if not isinstance(value, Mapping):
        error = {"class": type(value).__name__, "message": str(value) or repr(value)}
        value = {"status": "failed", "data": None, "error": error, "engine": None, "mode": None}
    return {"custom_id": custom_id, **value, "simulated": simulated, "seconds": round(elapsed_s, 3)}


def _show(lines: Sequence[Line], elapsed_s: float, path: Path, out: Console) -> None:
    for line in lines:
        out.print()
        out.print(report.document(line))
    out.print()
    out.print(report.summary(lines, elapsed_s))
    terminal.say(out, f"JSON result: {path}")


def _check_writable(output: Path | None) -> None:
    if output is None:
        return
    target = output if output.exists() else output.parent
    if output.is_dir() or not target.exists() or not os.access(target, os.W_OK):
        raise InvalidInput(f"{output}: cannot be written; give a file in a folder that exists")


def _write(lines: Sequence[Line], output: Path | None) -> Path:
    """Writes the result lines as one JSON list; returns where."""
    if output is None:
        descriptor, name = tempfile.mkstemp(prefix="aegis-demo-", suffix=".json")
        os.close(descriptor)
        output = Path(name)
    output.write_text(json.dumps(lines, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return output
