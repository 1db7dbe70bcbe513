"""What a worker does, and refuses, when it starts."""

import subprocess
import sys
from pathlib import Path

from installation import NO_REDIS, installed

from aegis_workers.local import environment
from aegis_workers.settings import Settings
from aegis_workers.state import keys


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
    settings = Settings(_env_file=None, redis_url=NO_REDIS)
    command = [sys.executable, "-m", "celery", "-A", "aegis_workers", "worker", "--pool", "processes"]
    ended = subprocess.run(
        command, env=environment.of(settings), capture_output=True, text=True, timeout=30, cwd=tmp_path, check=False
    )
    assert ended.returncode == 1
    assert "Error: pool prefork cannot be used: leave out --pool, the default is threads" in ended.stderr
    assert "Traceback" not in ended.stderr
