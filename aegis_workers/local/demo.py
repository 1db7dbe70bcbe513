"""`aegis-workers demo`: the whole system around one job of a handful of texts, and what was extracted from them."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

import anyio
from rich.console import Console

from aegis_workers.engines.base import Probe, Readiness
from aegis_workers.errors import AegisError, InvalidInput
from aegis_workers.jobs.local import LocalDesk
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.submission import Terms
from aegis_workers.jobs.view import View
from aegis_workers.local import documents, report, system, terminal
from aegis_workers.local.documents import Document
from aegis_workers.local.system import System
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings

LOOK_EVERY_S = 0.1
# A demo that is interrupted does not wait for its calls: nobody will see their results.
SHUTDOWN_GRACE_S = 1.0
# What a controller that is at work takes to end a job and have Redis forget it, several times over.
WITHDRAWN_WITHIN_S = 2.0
INTERRUPTED = 130
# Every document is looked at, however many fail.
_NEVER_STOP = 1.0

Line = dict[str, Any]
# How each look at a job is shown on a stream.
Shown = Callable[[IO[str]], AbstractContextManager[Callable[[View], None]]]


def demo(settings: Settings, files: Sequence[Path], engine: Engine | None, output: Path | None, shown: Shown) -> int:
    """Extract from `files` (none: the bundled samples) on `engine` if it is usable, else on simulators, and print the result.

    `shown` draws how their job goes. The result lines go to `output`, by default a temporary file. Returns the exit status: 0
    where every document was read to its end, 1 where one was not or a part of the system failed, 2 where a file cannot be used
    (nothing is started then).
    """
    out, err = terminal.console(), terminal.console(stderr=True)
    try:
        read = documents.read(files or documents.samples(), max_bytes=settings.max_text_bytes)
        _check_writable(output)
    except InvalidInput as error:
        terminal.say(err, str(error))
        return 2
    try:
        lines, elapsed_s = _run(settings, read, engine, out, shown)
    except KeyboardInterrupt:
        terminal.say(err, "Interrupted; everything was stopped.")
        return INTERRUPTED
    except AegisError as error:
        terminal.say(err, str(error))
        return 1
    _show(lines, elapsed_s, _write(lines, output), out)
    return 0 if all(map(report.is_complete, lines)) else 1


def _run(
    settings: Settings, read: Sequence[Document], engine: Engine | None, out: Console, shown: Shown
) -> tuple[list[Line], float]:
    """The result lines of the documents, in their order, and how long their job took, in seconds."""
    chosen, simulated = _engines(settings, engine, out)
    with terminal.interruptible(), _spool(chosen) as used, system.running(used, simulated=simulated) as running:
        terminal.announce(running, out)
        with LocalDesk(running.settings) as desk:
            job = Items(items=[(document.custom_id, document.text) for document in read], name="demo")
            with _withdrawn(running, desk):
                job_id = desk.submit(job, Terms(stop_share=_NEVER_STOP)).job_id
                view = _followed(running, desk, job_id, shown)
            lines = [json.loads(line.body) for line in desk.lines(job_id, ordered=True)]
    took_s = (view.ended_at or view.at) - view.manifest.created_at
    return [line | {"simulated": bool(simulated)} for line in lines], took_s


@contextmanager
def _spool(settings: Settings) -> Iterator[Settings]:
    """The settings with a folder of jobs that goes at the end."""
    with tempfile.TemporaryDirectory(prefix="aegis-spool-") as folder:
        yield settings.model_copy(update={"data_dir": Path(folder)})


def _engines(settings: Settings, engine: Engine | None, out: Console) -> tuple[Settings, Collection[Engine]]:
    """The settings to run with, and the engines to simulate: all of them, unless `engine` can be used.

    That one is used as it is: nobody starts or stops it.
    """
    quick = settings.model_copy(update={"shutdown_grace_s": SHUTDOWN_GRACE_S})
    if engine is None:
        return quick, tuple(Engine)
    problem = unusable(settings, engine)
    if problem is not None:
        terminal.say(out, f"{engine.label} cannot be used ({problem}); simulators stand in for both engines.")
        return quick, tuple(Engine)
    only = {f"{engine.other}_model": None, f"{engine}_driver": "external", "llm_engine_mode": Mode(engine.value)}
    return quick.model_copy(update=only), ()


def unusable(settings: Settings, engine: Engine) -> str | None:
    """Why `engine` cannot serve calls now, in words; None if one of its replicas can."""
    if settings.model(engine) is None:
        return f"AEGIS_{engine.upper()}_MODEL is not set"
    probes = anyio.run(_probe, settings, engine)
    if any(probe.readiness is Readiness.READY for probe in probes):
        return None
    return "; ".join(f"{url}: {probe.reason}" for url, probe in zip(settings.urls(engine), probes, strict=True))


async def _probe(settings: Settings, engine: Engine) -> list[Probe]:
    # They take as long to load as all else here, and simulators need none of them.
    from aegis_workers.engines import clients  # noqa: PLC0415

    replicas = clients.build(settings)[engine]
    try:
        return [await replica.probe() for replica in replicas]
    finally:
        for replica in replicas:
            await replica.aclose()


def _followed(running: System, desk: LocalDesk, job_id: str, shown: Shown) -> View:
    """The job once it has ended and Redis has forgotten it. Raises `ProcessFailed` if a part of the system ends before."""
    with shown(sys.stdout) as show:
        while True:
            view = desk.find(job_id)
            show(view)
            if _is_gone(view):
                return view
            running.check()
            time.sleep(LOOK_EVERY_S)


@contextmanager
def _withdrawn(running: System, desk: LocalDesk) -> Iterator[None]:
    """Where the block is interrupted, the job is cancelled: a Redis that goes on without us shall keep nothing of it.

    The controller may have the job before its submission has returned.
    """
    try:
        yield
    except KeyboardInterrupt:
        if running.redis.process is None:
            deadline = time.monotonic() + WITHDRAWN_WITHIN_S
            for view in desk.list().jobs:
                desk.cancel(view.id)
            while not all(map(_is_gone, desk.list().jobs)) and time.monotonic() < deadline:
                time.sleep(LOOK_EVERY_S)
        raise


def _is_gone(view: View) -> bool:
    return view.state.is_terminal and view.in_flight is None


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
