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
# Of what Sentinels watch: another one than the first.
DATABASE = 2
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
    def of_a_client(self) -> str:
        """What an address says of one that the authority signed."""
        return f"ssl_certfile={self.folder / 'server.pem'}&ssl_keyfile={self.folder / 'server.key'}"

    @property
    def options(self) -> Sequence[str]:
        """What a server is told of them."""
        files = ("--tls-cert-file", "server.pem", "--tls-key-file", "server.key", "--tls-ca-cert-file", "authority.pem")
        return [str(self.folder / word) if "." in word else word for word in files]


def certificates(folder: Path, *, days: int = 2) -> Certificates:
    """New ones, for 127.0.0.1 and localhost; that of the server is valid for so long, 0 for not a second."""
    folder.mkdir()
    for name in ("authority", "stranger"):
        _openssl(folder, f"req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}")
    _openssl(folder, "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=redis")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    signing = f"-CA authority.pem -CAkey authority.key -CAcreateserial -days {days} -extfile names"
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


def listening(port: int, found: Certificates | None) -> Sequence[str]:
    """What a server or Sentinel is told of where it listens, and how it reaches the others: with certificates, in TLS alone."""
    if found is None:
        return ["--port", str(port)]
    return ["--port", "0", "--tls-port", str(port), "--tls-replication", "yes", "--tls-auth-clients", "no", *found.options]


@contextmanager
def with_tls(folder: Path, found: Certificates, *, knows_clients: bool = False) -> Iterator[str]:
    """One that speaks nothing but TLS, and wants a user and a password; its address, without a word of certificates.

    `knows_clients`: it wants a certificate of them too.
    """
    port = process.free_port()
    url = f"rediss://{USER_IN_URL}@127.0.0.1:{port}/1"
    options = [*listening(port, found), "--tls-auth-clients", "yes" if knows_clients else "no"]
    with server(folder, *options, port=port, url=f"{url}?ssl_cert_reqs=none&{found.of_a_client}", given=users()):
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
    return f"{user(rights)}\nuser default off"


def user(rights: Sequence[str] = RIGHTS) -> str:
    """The line that names the one who is let in."""
    return f"user {USER} on >{PASSWORD} {' '.join(rights)}"


@dataclass(kw_only=True)
class Watched:
    """Two servers and three Sentinels; `servers` by port, of which `master` was the first master.

    `authority`: of their certificates, where all speak TLS.
    """

    servers: dict[int, Process]
    sentinels: Sequence[int]
    master: int
    replica: int
    authority: Path | None

    @property
    def url(self) -> str:
        """As Celery writes it; the user, the password and the database are those of the servers."""
        return ";".join(f"sentinel://{USER_IN_URL}@127.0.0.1:{port}/{DATABASE}" for port in self.sentinels)

    def at(self, port: int) -> redis.Redis:
        """A client of one of the servers, with every right."""
        return client(port, "planted", self.authority, db=DATABASE)

    def sentinel(self, port: int) -> redis.Redis:
        """A client of one of the Sentinels."""
        return client(port, SENTINEL_PASSWORD, self.authority)

    def chosen(self) -> int:
        """The port of the server that the first Sentinel takes for the master now."""
        with self.sentinel(self.sentinels[0]) as asked:
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


def client(port: int, password: str, authority: Path | None, *, db: int = 0) -> redis.Redis:
    """A client of one server or Sentinel on loopback."""
    tls: dict[str, Any] = {} if authority is None else {"ssl": True, "ssl_ca_certs": str(authority)}
    retry = Retry(NoBackoff(), 0)
    return redis.Redis(port=port, password=password, db=db, decode_responses=True, retry=retry, socket_timeout=5, **tls)


@contextmanager
def watched(folder: Path, *, certified: Certificates | None = None, down_after_ms: int = 1000) -> Iterator[Watched]:
    """A master, its replica, and three Sentinels who find it dead after so long; all in TLS where there are certificates."""
    master, replica, *sentinels = [process.free_port() for _ in range(5)]
    # The servers know each other and the Sentinels by a password alone, and those who use them as a user.
    rules_of_both = f"requirepass planted\nmasterauth planted\nrepl-diskless-sync-delay 0\n{user()}"
    started: list[Process] = []
    folder.mkdir()
    with ExitStack() as stack:
        stack.callback(lambda: process.stop(started, 5))
        started.append(start(folder / "master", *listening(master, certified), port=master, given=rules_of_both))
        follows = f"{rules_of_both}\nreplicaof 127.0.0.1 {master}"
        started.append(start(folder / "replica", *listening(replica, certified), port=replica, given=follows))
        servers = dict(zip((master, replica), started, strict=True))
        authority = None if certified is None else certified.authority
        found = Watched(servers=servers, sentinels=sentinels, master=master, replica=replica, authority=authority)
        for port in sentinels:
            rules = (
                f"requirepass {SENTINEL_PASSWORD}",
                f"sentinel sentinel-pass {SENTINEL_PASSWORD}",
                f"sentinel monitor aegis 127.0.0.1 {master} 2",
                "sentinel auth-pass aegis planted",
                f"sentinel down-after-milliseconds aegis {down_after_ms}",
                "sentinel failover-timeout aegis 10000",
            )
            started.append(_sentinel(folder / f"sentinel-{port}", port, rules, listening(port, certified)))
        started[0].wait_ready(lambda: _answers(found), _READY_S)
        yield found


def _sentinel(folder: Path, port: int, rules: Sequence[str], options: Sequence[str]) -> Process:
    binary = redis_server.find_binary()
    assert binary is not None
    folder.mkdir()
    (folder / "sentinel.conf").write_text("\n".join(("bind 127.0.0.1", f"dir {folder}", *rules)) + "\n")
    command = [str(binary.path), str(folder / "sentinel.conf"), *options, "--sentinel"]
    return process.start("Sentinel", command, log=folder / f"{port}.log", env=os.environ)


def _answers(found: Watched) -> bool:
    """Whether each Sentinel knows the two others and the replica, and the replica has what the master has."""
    try:
        for port in found.sentinels:
            with found.sentinel(port) as asked:
                facts = asked.sentinel_master("aegis")
                if facts["num-other-sentinels"] != 2 or facts["num-slaves"] != 1:
                    return False
        return found.has_its_replica()
    except (redis.RedisError, OSError, KeyError):
        return False
