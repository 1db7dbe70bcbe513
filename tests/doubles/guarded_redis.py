"""Redis servers behind TLS, passwords, users and Sentinels, each a process of the test's own."""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from aegis_workers.local import process, redis_server
from aegis_workers.local.process import Process

# A user who may do what is needed and no more, as the README has it.
USER, PASSWORD = "aegis", "planted/secret:of@redis"
USER_IN_URL = "aegis:planted%2Fsecret%3Aof%40redis"
SENTINEL_PASSWORD = "planted-secret-of-sentinels"  # noqa: S105 - planted
RIGHTS = ("~*", "&*", "+@all", "-@dangerous", "+info")
_READY_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """Of a server on loopback, of the authority that signed it, and of another authority."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The one that signed."""
        return self.folder / "authority.pem"

    @property
    def stranger(self) -> Path:
        """One that did not."""
        return self.folder / "stranger.pem"

    @property
    def options(self) -> Sequence[str]:
        """What a server is told of them."""
        files = ("--tls-cert-file", "server.pem", "--tls-key-file", "server.key", "--tls-ca-cert-file", "authority.pem")
        named = [str(self.folder / word) if "." in word else word for word in files]
        return [*named, "--tls-auth-clients", "no"]


def certificates(folder: Path) -> Certificates:
    """New ones, for 127.0.0.1 and localhost, valid for two days."""
    folder.mkdir()
    for name in ("authority", "stranger"):
        _openssl(folder, f"req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}")
    _openssl(folder, "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=redis")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    signing = "-CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile names"
    _openssl(folder, f"x509 -req -in server.csr -out server.pem {signing}")
    return Certificates(folder=folder)


def _openssl(folder: Path, arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)


@contextmanager
def server(folder: Path, *options: str, port: int, url: str, given: str = "") -> Iterator[Process]:
    """A server that answers at `url`; `given` are further lines of its configuration, such as its users."""
    child = start(folder, *options, port=port, given=given)
    try:
        child.wait_ready(lambda: redis_server.unanswered(url) is None, _READY_S)
        yield child
    finally:
        process.stop([child], 5)


def start(folder: Path, *options: str, port: int, given: str = "") -> Process:
    """A server on its way, which keeps what it is told as it is meant to be used here."""
    binary = redis_server.find_binary()
    assert binary is not None
    folder.mkdir(exist_ok=True)
    # Its folder: what it writes must not lie beside what another one wrote.
    lines = ("bind 127.0.0.1", f"dir {folder}", 'save ""', "appendonly yes", "maxmemory-policy noeviction", given)
    (folder / f"{port}.conf").write_text("\n".join(lines) + "\n")
    command = [str(binary.path), str(folder / f"{port}.conf"), *options]
    return process.start("Redis", command, log=folder / f"{port}.log", env=os.environ)


@contextmanager
def with_tls(folder: Path, found: Certificates) -> Iterator[str]:
    """One that speaks nothing but TLS, and wants a user and a password; its address, without a word of certificates."""
    port = process.free_port()
    url = f"rediss://{USER_IN_URL}@127.0.0.1:{port}/1"
    options = ["--port", "0", "--tls-port", str(port), *found.options]
    with server(folder, *options, port=port, url=f"{url}?ssl_cert_reqs=none", given=users()):
        yield url


@contextmanager
def with_users(folder: Path, rights: Sequence[str] = RIGHTS) -> Iterator[str]:
    """One that wants a user and a password; its address."""
    port = process.free_port()
    url = f"redis://{USER_IN_URL}@127.0.0.1:{port}/0"
    with server(folder, "--port", str(port), port=port, url=url, given=users(rights)):
        yield url


@contextmanager
def at_socket(folder: Path) -> Iterator[str]:
    """Likewise at a socket, and in another database than the first."""
    folder.mkdir()
    url = f"unix://{USER_IN_URL}@{folder}/redis.sock?db=3"
    with server(folder, "--port", "0", "--unixsocket", f"{folder}/redis.sock", port=1, url=url, given=users()):
        yield url


def users(rights: Sequence[str] = RIGHTS) -> str:
    """The lines that name them: nobody comes in without one."""
    return f"user {USER} on >{PASSWORD} {' '.join(rights)}\nuser default off"


@dataclass(kw_only=True)
class Watched:
    """Two servers and three Sentinels; `servers` by port, of which `master` was the first master."""

    servers: dict[int, Process]
    sentinels: Sequence[int]
    master: int
    replica: int

    @property
    def url(self) -> str:
        """As Celery writes it; the password is that of the servers."""
        return ";".join(f"sentinel://:planted@127.0.0.1:{port}/0" for port in self.sentinels)

    def at(self, port: int) -> redis.Redis:
        """A client of one of the servers."""
        return client(port, "planted")

    def chosen(self) -> int:
        """The port of the server that the first Sentinel takes for the master now."""
        with client(self.sentinels[0], SENTINEL_PASSWORD) as asked:
            return int(asked.sentinel_get_master_addr_by_name("aegis")[1])

    def has_its_replica(self) -> bool:
        """Whether a failover would lose nothing that was written a moment ago."""
        with self.at(self.master) as asked:
            facts: Any = asked.info("replication")
        return bool(facts["connected_slaves"] == 1 and facts["slave0"]["state"] == "online")

    def cut_replication(self) -> None:
        """From now on the replica misses what is written; returns when the master has lost it."""
        with self.at(self.replica) as behind, self.at(self.master) as asked:
            behind.config_set("masterauth", "wrong")
            asked.client_kill_filter(_type="replica")
        deadline = time.monotonic() + _READY_S
        while self.has_its_replica():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill_master(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.servers[self.master].popen.kill()
        self.servers[self.master].popen.wait()


def client(port: int, password: str) -> redis.Redis:
    """A client of one server or Sentinel on loopback."""
    return redis.Redis(port=port, password=password, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_timeout=5)


@contextmanager
def watched(folder: Path, *, down_after_ms: int = 1000) -> Iterator[Watched]:
    """A master, its replica, and three Sentinels who find it dead after so long."""
    master, replica, *sentinels = [process.free_port() for _ in range(5)]
    rules_of_both = "requirepass planted\nmasterauth planted\nrepl-diskless-sync-delay 0"
    started: list[Process] = []
    folder.mkdir()
    with ExitStack() as stack:
        stack.callback(lambda: process.stop(started, 5))
        started.append(start(folder / "master", "--port", str(master), port=master, given=rules_of_both))
        follows = f"{rules_of_both}\nreplicaof 127.0.0.1 {master}"
        started.append(start(folder / "replica", "--port", str(replica), port=replica, given=follows))
        servers = dict(zip((master, replica), started, strict=True))
        found = Watched(servers=servers, sentinels=sentinels, master=master, replica=replica)
        for port in sentinels:
            rules = (
                f"port {port}",
                f"requirepass {SENTINEL_PASSWORD}",
                f"sentinel sentinel-pass {SENTINEL_PASSWORD}",
                f"sentinel monitor aegis 127.0.0.1 {master} 2",
                "sentinel auth-pass aegis planted",
                f"sentinel down-after-milliseconds aegis {down_after_ms}",
                "sentinel failover-timeout aegis 10000",
            )
            started.append(_sentinel(folder / f"sentinel-{port}", port, rules))
        started[0].wait_ready(lambda: _answers(found), _READY_S)
        yield found


def _sentinel(folder: Path, port: int, rules: Sequence[str]) -> Process:
    binary = redis_server.find_binary()
    assert binary is not None
    folder.mkdir()
    (folder / "sentinel.conf").write_text("\n".join(("bind 127.0.0.1", f"dir {folder}", *rules)) + "\n")
    command = [str(binary.path), str(folder / "sentinel.conf"), "--sentinel"]
    return process.start("Sentinel", command, log=folder / f"{port}.log", env=os.environ)


def _answers(found: Watched) -> bool:
    """Whether each Sentinel knows the two others and the replica, and the replica has what the master has."""
    try:
        for port in found.sentinels:
            with client(port, SENTINEL_PASSWORD) as asked:
                facts = asked.sentinel_master("aegis")
                if facts["num-other-sentinels"] != 2 or facts["num-slaves"] != 1:
                    return False
        return found.has_its_replica()
    except (redis.RedisError, OSError, KeyError):
        return False
