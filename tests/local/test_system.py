import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis
import redis_servers

from aegis_workers.local import children, process, redis_server, system
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import keys, workers

pytestmark = pytest.mark.timeout(180)  # seven processes start, and end one kind after the other

# Seconds that all parts may take to end, one kind after the other, before the last of them would be killed.
STOPS_WITHIN_S = Settings(_env_file=None).shutdown_grace_s + 4 * system.STOP_GRACE_S

linux = pytest.mark.skipif(sys.platform != "linux", reason="it looks at processes through /proc")


@dataclass(frozen=True, kw_only=True)
class Up:
    """A running `aegis-workers up --simulate`, and what it has said."""

    popen: subprocess.Popen[str]
    said: str

    def children(self) -> dict[int, str]:
        """Command lines of its children, by process id."""
        return {pid: command for pid, (parent, command) in processes().items() if parent == self.popen.pid}

    def one(self, word: str) -> int:
        [pid] = [pid for pid, command in self.children().items() if word in command]
        return pid


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of every living process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(folder.name)] = (int(parent), (folder / "cmdline").read_text().replace("\0", " "))
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def up(folder: Path, redis_url: str | None = None) -> Iterator[Up]:
    nobody = f"redis://127.0.0.1:{process.free_port()}/0"
    with subprocess.Popen(
        [sys.executable, "-m", "aegis_workers.cli", "up", "--simulate"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, "AEGIS_REDIS_URL": redis_url or nobody, "TMPDIR": str(folder), "AEGIS_DATA_DIR": str(folder / "data")},
    ) as popen:
        try:
            assert popen.stdout is not None
            said = ""
            for line in popen.stdout:
                said += line
                if line.startswith("Ready"):
                    break
            assert "Ready" in said, said
            yield Up(popen=popen, said=said)
        finally:
            popen.kill()


PARTS = {
    "redis-server",
    "simulate vllm",
    "simulate ollama",
    "flower",
    "--queues extraction",
    "--queues chat",
    "--queues control",
    "cli controller",
    "cli admin",
}


@linux
def test_the_whole_system_starts_and_sigterm_ends_all_of_it(tmp_path: Path) -> None:
    with up(tmp_path) as running:
        before = running.children()
        assert {part for part in PARTS if any(part in command for command in before.values())} == PARTS
        assert "NOT a language model" in running.said
        running.popen.send_signal(signal.SIGTERM)
        assert running.popen.wait(STOPS_WITHIN_S) == 0
        assert not before.keys() & processes().keys()
    assert not Path(found(running.said, r"Logs: (.*)")).exists()


SIGNALLED_IN_A_FINALISER = """
import os, signal, sys
from aegis_workers import cli
from aegis_workers.local import up

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(10))

invite = up._invite

def invite_and_drop(running, out):
    invite(running, out)
    Dropped()

up._invite = invite_and_drop
cli.main(["up", "--simulate"])
"""


@linux
def test_sigterm_while_python_finalises_an_object_is_not_lost(tmp_path: Path) -> None:
    nobody = f"redis://127.0.0.1:{process.free_port()}/0"
    told = subprocess.run(
        [sys.executable, "-c", SIGNALLED_IN_A_FINALISER],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "AEGIS_REDIS_URL": nobody, "TMPDIR": str(tmp_path)},
        timeout=60 + STOPS_WITHIN_S,
    )
    assert told.returncode == 0
    assert told.stdout.endswith("Stopped.\n")
    assert "Exception ignored in: <function Dropped.__del__" in told.stderr


@linux
def test_kill_minus_9_leaves_no_process_behind(tmp_path: Path) -> None:
    with up(tmp_path) as running:
        before = running.children()
        assert len(before) == len(PARTS)
        running.popen.kill()
        wait_until(lambda: not before.keys() & processes().keys())


@linux
def test_the_death_of_a_part_ends_the_system_and_names_the_part(tmp_path: Path) -> None:
    with up(tmp_path) as running:
        before = running.children()
        os.kill(running.one("--queues chat"), signal.SIGKILL)
        assert running.popen.wait(STOPS_WITHIN_S) == 1
        assert running.popen.stdout is not None
        said = running.popen.stdout.read()
        assert "worker-chat ended by itself (killed by SIGKILL)" in said
        assert Path(found(said, r"All logs: (.*)"), "worker-chat.log").exists()
        assert not before.keys() & processes().keys()


@linux
def test_flower_is_on_loopback_behind_a_password_and_read_only(tmp_path: Path) -> None:
    with up(tmp_path) as running:
        url, auth = found(running.said, r"Flower: (\S+) "), found(running.said, r"login ([^)]+)\)")
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/workers").status_code == 401
        user, _, password = auth.partition(":")
        with httpx.Client(auth=(user, password), base_url=url) as client:
            assert client.get("/workers").is_success
            assert client.post("/api/worker/shutdown/chat@x").status_code == 403
        assert password not in " ".join(running.children().values())


def test_flower_takes_a_free_port_where_its_usual_one_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = f"redis://127.0.0.1:{process.free_port()}/0"
    group: list[Process] = []
    with redis_server.running(nobody) as server, socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(children, "FLOWER_PORT", taken.getsockname()[1])
        settings = Settings().model_copy(update={"redis_url": server.url})
        try:
            flower = system._watch(settings, tmp_path, group)
            assert httpx.get(f"{flower.url}/workers").status_code == 401
            assert [child.is_alive() for child in group] == [True]
        finally:
            process.stop(group, 20)


@linux
def test_a_redis_that_answers_is_used_and_left_as_it_was(tmp_path: Path) -> None:
    nobody = f"redis://127.0.0.1:{process.free_port()}/0"
    with redis_server.running(nobody) as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        with up(tmp_path, server.url) as running:
            assert "Redis: the one at" in running.said
            assert {worker.queue for worker in workers.read_all(client)} == {"extraction", "chat", "control"}
            assert client.exists(keys.MODE)
            running.popen.send_signal(signal.SIGTERM)
            assert running.popen.wait(STOPS_WITHIN_S) == 0
        assert client.ping()
        assert not client.exists(keys.MODE)


def test_simulators_on_a_redis_that_would_evict_get_a_private_one(tmp_path: Path) -> None:
    with redis_servers.running(tmp_path / "redis", "--maxmemory-policy", "allkeys-lru") as url, up(tmp_path, url) as running:
        assert "started privately" in running.said
        assert f"({url} is not used: eviction allkeys-lru: a full Redis would drop queued tasks" in running.said


def found(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    assert match, text
    return match.group(1)


def test_where_simulators_stand_in_nobody_starts_the_engine_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "start_simulator", lambda *_: None)
    monkeypatch.setattr(children, "address", lambda _: "http://127.0.0.1:1")
    settings = Settings(_env_file=None, vllm_driver="process", vllm_command="vllm serve m", ollama_driver="ollama")
    changed = settings.model_copy(update=system._simulate(tuple(Engine), settings, tmp_path, []))
    assert {changed.driver(engine) for engine in Engine} == {"external"}
