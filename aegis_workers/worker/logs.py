"""Structured logs on stdout: one summary line a call, and never what a caller or an engine wrote."""

import logging
import re
import sys
import traceback
import warnings
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import structlog
from celery.app.log import Logging
from celery.exceptions import CPendingDeprecationWarning

from aegis_workers import settings as settings_module
from aegis_workers.settings import Settings
from aegis_workers.worker.request import class_name

# It logs its own steps at DEBUG and nothing else.
_HARMLESS = "celery.bootsteps"
# What a record about a task may show of it.
_SHOWN = ("name", "id", "runtime", "description")
_WARNING = re.compile(r".*?:\d+: \w+")


class Redaction(logging.Filter):
    """Takes out of other packages' records whatever could be a caller's text: formatted values, and the text of exceptions.

    What is not about a task and plain information stays: Celery puts no caller's text there.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True: the record stays, as a sentence without values."""
        about_task = isinstance(record.args, Mapping)
        if not record.name.startswith(("aegis_workers", _HARMLESS)) and (about_task or record.levelno != logging.INFO):
            record.msg, record.args = _sentence(record), ()
            record.exc_info = record.exc_text = None
        return True


def _sentence(record: logging.LogRecord) -> str:
    parts = [_said(record)]
    if record.exc_info and record.exc_info[0] is not None:
        parts.extend([record.exc_info[0].__name__, *_frames(record.exc_info[2])])
    return " ".join(parts)


def _said(record: logging.LogRecord) -> str:
    values = record.args
    if isinstance(values, Mapping):
        shown = {name: values[name] for name in _SHOWN if name in values}
        exception = class_name(values["exc"]) if "exc" in values else ""
        return (str(record.msg) % defaultdict(str, shown, exc=exception)).rstrip(" :")
    if record.name == "py.warnings":
        place = _WARNING.match(str(values[0]) if values else "")
        return place.group() if place else "a warning"
    return str(record.msg).partition("\n")[0].partition("%")[0].rstrip(" :(") or "a problem"


def _frames(trace: Any) -> list[str]:
    """Where an exception came from, as places in code; its text could be a caller's."""
    return [f"at {frame.filename}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(trace)[-3:]]


class AppLogging(Logging):
    """The logging of this application's own processes; of another's that only enqueues here nothing is changed."""

    def setup_logging_subsystem(self, loglevel: int | str | None = None, *_: Any, **__: Any) -> bool:
        """Once a process; True, because there is nothing left for Celery to do."""
        if not self.already_setup:
            Logging._setup = True  # noqa: SLF001 - as Celery notes it
            set_up(settings_module.load(), loglevel)
        return True


def set_up(settings: Settings, level: int | str | None = None) -> None:
    """Sends every record of the process to stdout, as JSON unless it is a terminal."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stdout.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.ExceptionRenderer(_frames_only),
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    handler.addFilter(Redaction())
    logging.basicConfig(handlers=[handler], level=level or logging.INFO, force=True)
    # Celery's command line asks for WARNING unless told otherwise; the one line a call is always wanted.
    logging.getLogger("aegis_workers").setLevel(min(logging.INFO, logging.getLogger().level))
    # Celery announces at each lost connection that it will one day behave otherwise.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    # httpx and aiohttp log every request, with its address, at INFO.
    for name in ("httpx", "httpcore", "aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _frames_only(exc_info: Any) -> str:
    """An exception as its type and its places in code."""
    kind, _, trace = exc_info
    return "\n".join([kind.__name__, *_frames(trace)])
