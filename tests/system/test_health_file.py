"""What a service manager sees of a worker from outside."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import broken_workers
import pytest
from installation import Installation, eventually, installed

from aegis_workers.local import children, environment, process
from aegis_workers.routing import Engine


def said(place: Installation) -> Mapping[str, Any]:
    """The health of the one worker, by the command line."""
    told = place.cli("health", "--json")
    [found] = json.loads(told.stdout)
    assert told.returncode == (0 if found["ready"] else 1)
    result: Mapping[str, Any] = found
    return result


def test_a_worker_is_ready_when_it_consumes_and_leaves_no_file_at_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "health"
    with installed(tmp_path, "chat", health_dir=folder) as place:
        found = eventually(lambda: (health := said(place))["ready"] and health)
        assert (found["queue"], found["reason"], found["stopping"]) == ("chat", None, False)
        assert found["node"].startswith("chat@")
        assert found["worker_id"] in {key.removeprefix("aegis:worker:") for key in place.redis.scan_iter("aegis:worker:*")}
        assert [path.name for path in folder.glob("*.json")] == [f"{found['node']}.json"]
        assert place.cli("health", "chat").returncode == 0

        place.workers[0].popen.send_signal(signal.SIGTERM)
        assert place.workers[0].popen.wait(15) == 0

        assert list(folder.iterdir()) == []
        assert place.cli("health", "chat").returncode == 1


def test_a_worker_shows_its_calls_and_that_it_is_stopping(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", llm_engine_mode="ollama", shutdown_grace_s=5, health_dir=tmp_path / "health") as place:
        place.behave(Engine.OLLAMA, hang=True)
        for _ in range(6):
            place.chat()
        eventually(lambda: sum(said(place)["in_flight"].values()) == 4 and sum(said(place)["waiting"].values()) == 2)

        place.workers[0].popen.send_signal(signal.SIGTERM)

        found = eventually(lambda: (health := said(place))["stopping"] and health)
        assert (found["live"], found["ready"], found["reason"]) == (True, False, "it is stopping")
        assert place.workers[0].popen.wait(15) == 0


@pytest.mark.timeout(120)  # a leader holds on for 10 s
def test_a_controller_is_ready_when_it_leads_and_says_when_redis_does_not_answer(tmp_path: Path) -> None:
    folder = tmp_path / "health"
    with installed(tmp_path, await_engines=False, simulated=(), health_dir=folder, data_dir=tmp_path / "data") as place:
        controller = children.start_controller(place.settings, tmp_path)
        try:
            eventually(lambda: place.cli("health", "controller").returncode == 0)
            server = place.server.process
            assert server is not None
            server.popen.send_signal(signal.SIGSTOP)
            try:
                eventually(lambda: place.cli("health", "controller").returncode == 1, within_s=40)
                assert "Redis does not answer" in place.cli("health", "controller").stdout
                assert place.cli("health", "controller", "--live").returncode == 0
            finally:
                server.popen.send_signal(signal.SIGCONT)
            eventually(lambda: place.cli("health", "controller").returncode == 0, within_s=40)
        finally:
            process.stop([controller], 10)
        assert list(folder.iterdir()) == []


def test_a_killed_worker_is_not_well_although_its_file_said_so(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", health_dir=tmp_path / "health") as place:
        eventually(lambda: said(place)["ready"])
        place.workers[0].popen.kill()
        found = eventually(lambda: (health := said(place))["ready"] is False and health)
        assert not found["live"]
        assert "it was killed, or it hangs" in found["reason"]


@pytest.mark.parametrize("fault", ["frozen", "killed"])
def test_a_worker_without_redis_is_alive_and_not_ready(tmp_path: Path, fault: str) -> None:
    with installed(tmp_path, "chat", health_dir=tmp_path / "health") as place:
        eventually(lambda: said(place)["ready"])
        assert place.server.process is not None
        server = place.server.process.popen
        server.send_signal(signal.SIGSTOP if fault == "frozen" else signal.SIGKILL)

        found = eventually(lambda: (health := said(place))["reason"] == "Redis does not answer" and health)

        assert (found["live"], found["ready"]) == (True, False)
        assert place.cli("health", "--live").returncode == 0
        assert place.workers[0].is_alive()
        if fault == "frozen":
            server.send_signal(signal.SIGCONT)
            eventually(lambda: said(place)["ready"])


def test_a_worker_whose_main_loop_hangs_is_dead_although_its_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with installed(tmp_path, health_dir=tmp_path / "health", watchdog_s=6) as place:
        place.start_workers("chat", options=broken_workers.include(broken_workers.HUNG, tmp_path / "modules", monkeypatch))
        found = eventually(lambda: (health := said(place))["live"] is False and health)
        assert re.match("its main loop has not turned for|it ends itself", found["reason"])
        assert place.cli("health", "--live").returncode == 1


def test_a_folder_that_cannot_be_used_is_refused_at_the_start_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with installed(tmp_path, health_dir=tmp_path / "file") as place:
        command = [sys.executable, "-m", "celery", "-A", "aegis_workers", "worker", "-Q", "chat"]
        env = environment.of(place.settings)
        told = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=30)
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1] == f"Error: AEGIS_HEALTH_DIR={tmp_path}/file: no folder can be there (File exists)"
