"""Flower as it watches this installation: behind a login or on loopback, read-only, bounded, and without anybody's text.

Flower has options of its own, from its command line, `FLOWER_…` variables and its configuration file. What is set here are their
defaults; what must not be otherwise is checked once all of them are known.
"""

import hashlib
import hmac
import ipaddress
import logging
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import click

from aegis_workers import settings as settings_module
from aegis_workers.errors import ConfigurationError
from aegis_workers.settings import Settings
from aegis_workers.state import backlog, connection
from aegis_workers.state.backlog import Backlog
from aegis_workers.worker import logs, summary
from aegis_workers.worker.request import HIDDEN, class_name

ADDRESS: Final = "127.0.0.1"
# The user of the login where AEGIS_ADMIN_TOKEN is the password.
USER: Final = "aegis"

# A call may take AEGIS_CALL_TIMEOUT_S, a document many calls.
RUNTIME_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 90.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_DEFAULTS: Final[Mapping[str, Any]] = {
    "address": ADDRESS,
    "max_tasks": 10_000,
    "max_workers": 500,
    "purge_offline_workers": 600,
    "task_runtime_metric_buckets": list(RUNTIME_BUCKETS_S),
    "tasks_columns": "name,uuid,state,result,received,runtime,worker",
    "logging": "none",  # its records go where ours go
    "cookie_secret": "",
}

# What an event of a task may say beside its result and its exception: names, times and states.
_NAMES = {"type", "uuid", "hostname", "name", "root_id", "parent_id", "queue", "exchange", "routing_key", "pid"}
_TIMES = {"timestamp", "local_received", "clock", "utcoffset", "eta", "expires", "runtime"}
_STATES = {"retries", "terminated", "signum", "expired", "requeue"}
_SHOWN = frozenset(_NAMES | _TIMES | _STATES)


def option() -> click.Option:
    """For `app.user_options["preload"]`, which Celery has every command read before it begins: prepares that of Flower."""
    return click.Option(["--for-flower"], hidden=True, callback=_prepare)


def login(settings: Settings) -> str | None:
    """Who may look, as `user:password`; None where the settings name nobody."""
    if settings.flower_auth is not None:
        return settings.flower_auth.get_secret_value()
    return f"{USER}:{settings.admin_token.get_secret_value()}" if settings.admin_token is not None else None


def without_text(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event less what a caller or an engine may have written: a producer of its own may tell all that it sends."""
    if not str(event.get("type")).startswith("task-"):
        return dict(event)
    shown = {name: value for name, value in event.items() if name in _SHOWN}
    if "result" in event:
        shown["result"] = event["result"] if summary.is_line(event["result"]) else HIDDEN
    if "exception" in event:
        said = str(event["exception"])  # of our workers the name of the class alone
        shown["exception"] = said if said.isidentifier() else class_name(said)
    return shown


def _prepare(ctx: click.Context, _: click.Parameter, value: Any) -> Any:
    if ctx.command.name == "flower":
        try:
            _dress(ctx.obj.app, settings_module.load())
        except ConfigurationError as error:
            raise click.ClickException(str(error)) from None
    return value


def _dress(app: Any, settings: Settings) -> None:
    """Has this process, which runs Flower and nothing else, do so as described above."""
    from flower import command, events, views  # noqa: PLC0415 - Celery's command line has loaded it, and no other process needs it
    from tornado.options import options  # noqa: PLC0415

    class QuietState(events.EventsState):
        def event(self, event: Mapping[str, Any]) -> None:
            super().event(without_text(event))

    app.conf.result_backend = "disabled"  # else Flower gives the whole result of any task to whoever knows its id
    events.EventsState = QuietState
    command.print_banner = _announce
    broker = _Broker(settings, [queue.name for queue in app.conf.task_queues])
    views.BaseHandler.get_broker = lambda _: broker
    views.BaseHandler.prepare = _refuse_foreign
    found = login(settings)
    chosen: dict[str, Any] = {"basic_auth": [found] if found else [], "read_only": not settings.flower_control}
    for name, value in {**_DEFAULTS, **chosen}.items():
        setattr(options, name, value)
    options.add_parse_callback(lambda: _settle(options))
    logs.set_up(settings)
    logging.getLogger("tornado.general").setLevel(logging.ERROR)  # it warns of each request that was refused, and says no more


def _settle(options: Any) -> None:
    """All options are known. Raises `ClickException` where they would let anybody in."""
    options.basic_auth = [found for found in options.basic_auth if found]
    if not (options.basic_auth or options.auth):
        _refuse_open(options)
    if not options.cookie_secret:
        options.cookie_secret = _cookie_secret([*options.basic_auth, options.oauth2_secret or ""])


def _refuse_open(options: Any) -> None:
    if not options.unix_socket and not _is_loopback(options.address):
        where = options.address or "all addresses"
        raise click.ClickException(
            f"without a login Flower listens on loopback only, not on {where}: set AEGIS_FLOWER_AUTH=user:password"
        )
    if not options.read_only:  # any page of the web that is open in a browser here could use it
        raise click.ClickException("without a login Flower only shows: set AEGIS_FLOWER_AUTH=user:password to control from there")


def _cookie_secret(secrets: Sequence[str]) -> str:
    """The same after a restart and on every host, and known to nobody who does not know what protects Flower anyway."""
    return hmac.new("\0".join(secrets).encode(), b"aegis-workers: the cookies of Flower", hashlib.sha256).hexdigest()


def _is_loopback(host: str) -> bool:
    """Whether all addresses of that name are this host alone; the empty one stands for every address."""
    with suppress(OSError, ValueError):
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
    return False


def _announce(_app: Any, with_tls: bool, port: int | None = None) -> None:  # noqa: FBT001 - in the place of Flower's own
    from tornado.options import options  # noqa: PLC0415

    host = f"[{options.address}]" if ":" in options.address else options.address or ADDRESS
    where = f"http{'s' if with_tls else ''}://{host}:{port}" if port else options.unix_socket
    sys.stdout.write(f"Flower on {where}\n")
    sys.stdout.flush()


def _refuse_foreign(handler: Any) -> None:
    """Without a login, only who asks for this host by a name of loopback: another name is a page of another site that asks."""
    from tornado.web import HTTPError  # noqa: PLC0415

    options = handler.application.options
    open_to_host = not (options.basic_auth or options.auth or options.unix_socket)
    if open_to_host and not _names_loopback(handler.request.host_name):
        raise HTTPError(403, reason="Without AEGIS_FLOWER_AUTH Flower answers to localhost and 127.0.0.1 only")


def _names_loopback(host: str) -> bool:
    with suppress(ValueError):
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


class _Broker:
    """What Flower asks for the lengths of queues: through our own connection, with what our workers hold beside what waits."""

    def __init__(self, settings: Settings, queues: Sequence[str]) -> None:
        self._settings = settings
        self._queues = queues

    async def queues(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Every queue of the application, also one that no worker takes from just now."""
        async with connection.open_async(self._settings) as client:
            found = await backlog.count(client, sorted({*names, *self._queues}))
        return [_row(queue) for queue in found]


def _row(queue: Backlog) -> dict[str, Any]:
    return {
        "name": queue.queue,
        "messages": queue.waiting + queue.held,
        "messages_ready": queue.waiting,
        "messages_unacknowledged": queue.held,
        "consumers": queue.workers,
    }
