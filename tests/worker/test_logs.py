"""What a worker logs: nothing that a caller or an engine wrote, whatever Celery and kombu would say of it."""

import ast
import importlib
import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery.app import trace

from aegis_workers.worker.logs import Redaction

PLANTED = "zanzibar"
# The parts of Celery and kombu that run in a worker and have something to say.
SPEAKERS = (
    "celery.app.trace",
    "celery.backends.asynchronous",
    "celery.backends.base",
    "celery.backends.redis",
    "celery.concurrency.base",
    "celery.concurrency.thread",
    "celery.utils.dispatch.signal",
    "celery.worker.consumer.consumer",
    "celery.worker.consumer.gossip",
    "celery.worker.consumer.mingle",
    "celery.worker.consumer.tasks",
    "celery.worker.loops",
    "celery.worker.pidbox",
    "celery.worker.request",
    "celery.worker.strategy",
    "celery.worker.worker",
    "kombu.asynchronous.hub",
    "kombu.asynchronous.timer",
    "kombu.common",
    "kombu.connection",
    "kombu.message",
    "kombu.transport.redis",
    "kombu.transport.virtual.base",
)
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "crit": logging.CRITICAL,
    "critical": logging.CRITICAL,
}


@dataclass(frozen=True, kw_only=True)
class Saying:
    """One place where a module logs something with values in it."""

    module: str
    line: int
    level: int
    text: str
    values: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line}"


def sayings(module: str) -> Iterator[Saying]:
    loaded = importlib.import_module(module)
    assert loaded.__file__ is not None
    for node in ast.walk(ast.parse(Path(loaded.__file__).read_text())):
        if isinstance(node, ast.Call) and node.args and (level := LEVELS.get(_called(node.func))) is not None:
            text = _text(node.args[0], loaded)
            if text is not None and len(node.args) > 1:
                yield Saying(module=module, line=node.lineno, level=level, text=text, values=len(node.args) - 1)


def _called(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id="logger"), attr=name):
            return name
        case _:
            return ""


def _text(argument: ast.expr, module: Any) -> str | None:
    """The format of a log call, where it is a constant."""
    match argument:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name) if isinstance(getattr(module, name, None), str):
            return str(getattr(module, name))
        case _:
            return None


ALL = [saying for module in SPEAKERS for saying in sayings(module)]


def shown(name: str, level: int, text: str, values: Any, exc_info: Any = None) -> str:
    """The line that is logged in the end."""
    record = logging.LogRecord(name, level, __file__, 1, text, values, exc_info)
    assert Redaction().filter(record)
    return logging.Formatter("%(message)s").format(record)


def raised(error: Exception) -> Any:
    try:
        raise error
    except type(error):
        return sys.exc_info()


def test_the_places_that_matter_are_found() -> None:
    assert len(ALL) > 50
    texts = "".join(saying.text for saying in ALL)
    for known in ("Can't decode message body", "full contents of the message body", "TaskPool: Apply %s", "Couldn't ack %r"):
        assert known in texts


@pytest.mark.parametrize("saying", [saying for saying in ALL if saying.level != logging.INFO], ids=str)
def test_no_value_that_celery_or_kombu_would_log_is_logged(saying: Saying) -> None:
    """Lines of level INFO have ids, names and addresses as values; those about tasks are looked at below."""
    values = tuple(f"{PLANTED} {number}\n{PLANTED}" for number in range(saying.values))
    line = shown(saying.module, saying.level, saying.text, values, raised(RuntimeError(PLANTED)))
    assert PLANTED not in line
    assert line.startswith(saying.text.partition("%")[0].partition("\n")[0].rstrip(" :("))
    assert "RuntimeError" in line
    assert "test_logs.py" in line


FORMATS = {name: text for name, text in vars(trace).items() if name.startswith("LOG_")}


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL])
@pytest.mark.parametrize("name", FORMATS)
def test_a_line_about_a_task_has_its_name_and_id_and_no_argument_result_or_exception(name: str, level: int) -> None:
    known = {"name": "aegis.chat", "id": "task-1", "runtime": 0.5, "description": "raised unexpected", "hostname": "here"}
    texts = dict.fromkeys(("args", "kwargs", "return_value", "traceback", "eta"), f"{PLANTED}\n{PLANTED}")
    context: Mapping[str, Any] = {**known, **texts, "exc": f"ValueError('{PLANTED}')"}
    line = shown("celery.app.trace", level, FORMATS[name], (context,), raised(ValueError(PLANTED)))
    assert PLANTED not in line
    assert "aegis.chat[task-1]" in line


@pytest.mark.parametrize("said", [PLANTED, f"'{PLANTED}'", f" {PLANTED}(", "", f"<{PLANTED}>"])
def test_what_is_no_exception_is_not_logged_in_its_place(said: str) -> None:
    line = shown("celery.app.trace", logging.INFO, trace.LOG_FAILURE, ({"name": "n", "id": "i", "exc": said},))
    assert PLANTED not in line


def test_a_warning_of_python_is_logged_as_its_place_and_class() -> None:
    said = f"/lib/celery/app/trace.py:809: RuntimeWarning: Exception raised outside body: {PLANTED}\n  warn({PLANTED})"
    assert shown("py.warnings", logging.WARNING, "%s", (said,)) == "/lib/celery/app/trace.py:809: RuntimeWarning"


def test_our_own_lines_stay_as_they_are() -> None:
    assert shown("aegis_workers.dispatch.calls", logging.WARNING, "call %s", ("finished",)) == "call finished"


SCRIPT = f"""
import logging, structlog
from aegis_workers.settings import Settings
from aegis_workers.worker import logs
logs.set_up(Settings(_env_file=None, log_format="json"), "WARNING")
log = structlog.get_logger("aegis_workers.dispatch.calls")
log.info("call.finished", status="ok")
try:
    raise ValueError("{PLANTED}")
except ValueError:
    log.critical("worker.part_died", exc_info=True)
    logging.getLogger("celery.worker.consumer.consumer").exception("Received %r", "{PLANTED}")
    logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=True)
logging.getLogger("httpx").info("POST http://engine/{PLANTED}")
logging.getLogger("celery.worker").info("not asked for")
"""


def test_a_process_logs_json_lines_to_stdout_without_what_anybody_wrote(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
    assert PLANTED not in done.stdout
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"].partition(" ")[0] for line in lines] == ["call.finished", "worker.part_died", "Received", "Task"]
    assert lines[0]["status"] == "ok"
    assert lines[1]["exception"].startswith("ValueError\nat ")
