"""`aegis-workers admin`: the server process, from its address to its orderly end."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from functools import partial

import structlog
import uvicorn
from starlette.concurrency import run_in_threadpool

from aegis_workers.admin import application, door, reach
from aegis_workers.admin.feed import Feed
from aegis_workers.admin.place import Place
from aegis_workers.admin.uploads import Uploads
from aegis_workers.errors import ConfigurationError, SpoolUnavailable
from aegis_workers.jobs.desk import Desk
from aegis_workers.jobs.local import LocalDesk
from aegis_workers.settings import Settings
from aegis_workers.worker import logs

log = structlog.get_logger(__name__)

_SWEEP_EVERY_S = 3600
# Connections that may wait to be accepted.
_BACKLOG = 512


class Server(uvicorn.Server):
    """Ends with status 0 when it is told to stop: uvicorn's own would then send itself the signal again, and die of it."""

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        super().__init__(config)
        self._feed = feed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Requests in progress get their time; who follows events would take all of it, and is told that this is the end."""
        self._feed.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end what runs in order; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():  # a test's, which ends it by itself
            yield
            return
        loop, signals = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self._told)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _told(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def run(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C; port 0 is any free one. Prints one line with the address.

    Requests in progress get `AEGIS_SHUTDOWN_GRACE_S` then. Raises `ConfigurationError` where the address cannot be had, or is not
    one of loopback and there is no token.
    """
    family, address = _resolve(host, port)
    if settings.admin_token is None and not door.is_loopback(address):
        raise ConfigurationError(
            f"without a token the admin API listens on loopback only, not on {host}: set AEGIS_ADMIN_TOKEN, or --host 127.0.0.1"
        )
    logs.set_up(settings)
    with LocalDesk(settings, redis_within_s=reach.WITHIN_S) as desk, listening(family, address, port) as listener:
        sys.stdout.write(f"Admin API on {_url(listener)}\n")
        sys.stdout.flush()
        asyncio.run(server(settings, desk).serve(sockets=[listener]))


def server(settings: Settings, desk: Desk) -> Server:
    """The application, served quietly, and with uploads swept at the start and every hour."""
    app = application.build(settings, desk)
    place: Place = app.state.place
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_s)),
        callback_notify=partial(_sweep, settings),
        timeout_notify=_SWEEP_EVERY_S,
    )
    return Server(config, place.feed)


async def _sweep(settings: Settings) -> None:
    """Removes uploads that broke off or whose time is over. Where the folder cannot be used, requests will say so."""
    try:
        await run_in_threadpool(Uploads(settings.data_dir).sweep)
    except SpoolUnavailable as error:
        log.warning("uploads.not_swept", error=str(error))


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, str]:
    """The address that will be listened on, so that it is the one that was judged."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host}: {error.strerror or error}") from None
    return family, str(address[0])


def listening(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    """A socket that listens there. Raises `ConfigurationError`."""
    try:
        listener = socket.create_server((address, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {address}:{port}: {os.strerror(error.errno or 0)}") from None
    # Connections inherit this, and asyncio does not set it where the socket was made without naming its protocol: a body, which
    # follows its head as a packet of its own, would then wait for the client's acknowledgement, which comes after 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
