"""What a worker does, and refuses, when it starts."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import redis_servers
from installation import NO_REDIS, eventually, installed

from aegis_workers.local import children, environment, process
from aegis_workers.local.process import Process
from aegis_workers.settings import Settings
from aegis_workers.state import keys

WORKER = (sys.executable, "-m", "celery", "-A", "aegis_workers", "worker", "-Q", "chat")
EVICTS = ("--maxmemory-policy", "allkeys-lru")


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A worker, and the port at which it looks for its Redis."""

    worker: Process
    port: int


def ended(command: Sequence[str], url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """How a command that ends by itself has ended."""
    env = environment.of(Settings(_env_file=None, redis_url=url, vllm_model="sim")) | {"TMPDIR": str(folder)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, cwd=folder, check=False)


def refusal(url: str, folder: Path) -> str:
    """The last words of a worker that refuses this Redis."""
    told = ended(WORKER, url, folder)
    assert told.returncode == 1
    assert "Traceback" not in told.stderr
    return told.stderr.splitlines()[-1]


def test_a_start_writes_the_configured_mode_where_there_is_none(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", llm_engine_mode="ollama") as place:
        assert place.redis.get(keys.MODE) == "ollama"


def test_a_start_does_not_undo_an_operators_switch(tmp_path: Path) -> None:
    with installed(tmp_path, llm_engine_mode="ollama") as place:
        place.redis.set(keys.MODE, "vllm")
        place.start_workers("chat")
        assert place.redis.get(keys.MODE) == "vllm"
        assert place.chat().get(timeout=20)["mode"] == "vllm"


def test_a_pool_in_which_no_call_could_run_is_refused_in_one_line(tmp_path: Path) -> None:
    told = ended([*WORKER, "--pool", "processes"], NO_REDIS, tmp_path)
    assert told.returncode == 1
    assert "Error: pool prefork cannot be used: leave out --pool, the default is threads" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_redis_that_would_evict_is_refused_in_one_line(tmp_path: Path) -> None:
    with redis_servers.running(tmp_path, *EVICTS) as url:
        reason = "eviction allkeys-lru: a full Redis would drop queued tasks; set maxmemory-policy noeviction"
        assert refusal(url, tmp_path) == f"Error: Redis at {url} cannot be used ({reason})"
        with redis.Redis.from_url(url) as client:
            assert client.dbsize() == 0  # nothing of it had begun


def test_a_redis_in_cluster_mode_is_refused_in_one_line(tmp_path: Path) -> None:
    with redis_servers.running(tmp_path, "--cluster-enabled", "yes") as url:
        assert refusal(url, tmp_path).startswith(f"Error: Redis at {url} cannot be used (Cluster on")


def test_a_redis_that_is_too_old_is_refused_in_one_line(tmp_path: Path) -> None:
    with redis_servers.older_than_6() as url:
        reason = "version older than 6.0: 6.2 or newer is needed"
        assert refusal(url, tmp_path) == f"Error: Redis at {url} cannot be used ({reason})"


def test_up_refuses_a_redis_that_would_evict_in_one_line(tmp_path: Path) -> None:
    with redis_servers.running(tmp_path, *EVICTS) as url:
        told = ended([sys.executable, "-m", "aegis_workers.cli", "up"], url, tmp_path)
    assert told.returncode == 1
    assert told.stderr.startswith(f"Redis at {url} cannot be used (eviction allkeys-lru")
    assert len(told.stderr.splitlines()) == 1


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    """A worker whose Redis is not there yet."""
    folder = tmp_path / "worker"
    folder.mkdir()
    port = process.free_port()
    url = f"redis://127.0.0.1:{port}/0"
    settings = Settings(_env_file=None, redis_url=url, shutdown_grace_s=1, llm_engine_mode="ollama")
    worker = children.start_worker("chat", settings, folder)
    try:
        worker.wait_ready(lambda: "redis.unavailable" in worker.log_text(), 20)
        yield Waiting(worker=worker, port=port)
    finally:
        process.stop([worker], 10)


def test_a_redis_that_comes_later_and_would_evict_ends_the_worker_with_the_reason(waiting: Waiting, tmp_path: Path) -> None:
    with redis_servers.running(tmp_path / "redis", *EVICTS, port=waiting.port):
        assert waiting.worker.popen.wait(20) == 1
    lines = [json.loads(line) for line in waiting.worker.log.read_text().splitlines() if '"redis.refused"' in line]
    [refused] = [(line["level"], line["reason"]) for line in lines]
    assert refused[0] == "critical"
    assert "eviction allkeys-lru: a full Redis would drop queued tasks; set maxmemory-policy noeviction" in refused[1]
    assert "Traceback" not in waiting.worker.log_text()


def test_a_redis_that_comes_later_and_forgets_at_a_restart_is_used_with_a_warning(waiting: Waiting, tmp_path: Path) -> None:
    with redis_servers.running(tmp_path / "redis", port=waiting.port) as url, redis.Redis.from_url(url) as client:
        eventually(lambda: client.get(keys.MODE) == b"ollama")
        eventually(lambda: "append-only file off: queued tasks are lost when Redis restarts" in waiting.worker.log_text())
        assert waiting.worker.is_alive()
