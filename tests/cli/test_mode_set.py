"""`mode set --wait` and `--dry-run`, and what `engines` shows of a controller, with a leader that says what the test wants."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
import redis
from click.testing import CliRunner, Result

from aegis_workers import settings as settings_module
from aegis_workers.cli import main
from aegis_workers.engines.base import Readiness
from aegis_workers.local import environment
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import connection, engine_control, engine_status, keys, memory, workers
from aegis_workers.state.engine_control import Control, Phase
from aegis_workers.state.engine_status import ReplicaStatus
from aegis_workers.state.jobs import Ruling
from aegis_workers.state.leader import Leadership
from aegis_workers.state.memory import Memory
from aegis_workers.state.workers import WorkerReport

VLLM, OLLAMA = Engine.VLLM, Engine.OLLAMA
READY = Control(phase=Phase.READY, since=1.0, reason="mode ollama", driver="ollama", origin="mode key")
STOPPED = Control(phase=Phase.STOPPED, since=1.0, reason="Not started (mode ollama)", fenced=True, driver="process")
FAILED = replace(STOPPED, phase=Phase.FAILED, failures=2, reason="it ended", said="CUDA out of memory")
MEASURED = Memory(free_gb=35.25, total_gb=60.0, source="meminfo", room_for_both=False, why="together they need 64.7 GB")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    settings_module.load.cache_clear()


@pytest.fixture
def place(settings: Settings) -> Settings:
    """Both engines are configured, one of them excludes the other."""
    return settings.model_copy(update={"vllm_model": "sim", "ollama_model": "sim"})


def say(settings: Settings, *, leads: bool = True, measured: Memory | None = None, **controls: Control) -> None:
    """A leader says this of engines."""

    async def write() -> None:
        async with connection.open_async(settings) as client:
            await client.delete(keys.CONTROLLER)
            leadership = Leadership(client, "host:1")
            token = await leadership.hold()
            assert token
            records = await engine_control.read_all(client)
            for name, control in controls.items():
                written = records[Engine(name)].written
                found = await engine_control.write(client, token, Engine(name), control, instead_of=written)
                assert found is Ruling.DONE
            if measured:
                await memory.write(client, token, measured)
            if not leads:
                await leadership.release()

    asyncio.run(write())


def report(settings: Settings, engine: Engine, state: Readiness, reason: str = "") -> None:
    async def share() -> None:
        async with connection.open_async(settings) as client:
            replica = ReplicaStatus(url="http://a:1", state=state, reason=reason, loaded=True)
            await engine_status.report(client, engine, [replica], complete=True)

    asyncio.run(share())


def run(settings: Settings, *arguments: str) -> Result:
    settings_module.load.cache_clear()
    return CliRunner().invoke(main, arguments, env=environment.of(settings))


@contextmanager
def waiting(settings: Settings, folder: Path, mode: str, seconds: str = "30") -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A `mode set --wait` whose lines are read as they come."""
    command = [sys.executable, "-m", "aegis_workers.cli", "mode", "set", mode, "--wait", seconds]
    with subprocess.Popen(
        command, env=environment.of(settings), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        yield child, child.stdout
        child.wait(20)


def contents(client: redis.Redis) -> dict[str, object]:
    return {name: client.dump(name) for name in client.scan_iter()}


def line_with(stream: IO[str], *words: str) -> str:
    """The next line that has all of these."""
    return next(line for line in stream if all(word in line for word in words))


@pytest.mark.timeout(60)
def test_waiting_shows_each_phase_with_its_time_as_it_comes_until_the_engines_have_followed(
    place: Settings, tmp_path: Path
) -> None:
    say(place, vllm=STOPPED, ollama=READY)
    with waiting(place, tmp_path, "vllm") as (child, lines):
        assert line_with(lines, "Mode is vllm") == "Mode is vllm (was not set).\n"
        assert line_with(lines, "vLLM", "stopped").endswith(" s  vLLM    stopped: Not started (mode ollama)\n")
        assert line_with(lines, "Ollama").endswith(" s  Ollama  ready: mode ollama\n")
        say(place, ollama=replace(READY, phase=Phase.DRAINING, fenced=True, reason="3 calls in flight"))
        line_with(lines, "Ollama  draining: 3 calls in flight")
        say(place, ollama=replace(READY, phase=Phase.STOPPED, fenced=True), vllm=replace(STOPPED, phase=Phase.STARTING))
        line_with(lines, "vLLM    starting")
        say(place, vllm=replace(STOPPED, phase=Phase.READY, fenced=False))
        line_with(lines, "vLLM    ready")
        assert line_with(lines, "followed").startswith("The engines have followed mode vllm after ")
    assert child.returncode == 0


@pytest.mark.timeout(60)
def test_waiting_ends_with_1_and_the_reason_when_the_engine_failed(place: Settings, tmp_path: Path) -> None:
    say(place, vllm=STOPPED, ollama=READY)
    with waiting(place, tmp_path, "vllm") as (child, lines):
        line_with(lines, "vLLM", "stopped")
        say(place, vllm=replace(FAILED, since=time.time() + 1), ollama=replace(READY, phase=Phase.STOPPED, fenced=True))
        lines.read()
        assert child.stderr is not None
        assert "did not follow: vLLM: failed: it ended; it wrote: CUDA out of memory" in child.stderr.read()
    assert child.returncode == 1


def test_a_failure_of_before_is_none_of_the_switch_that_asks_anew(place: Settings) -> None:
    say(place, vllm=FAILED, ollama=replace(READY, phase=Phase.STOPPED, fenced=True))
    told = run(place, "mode", "set", "vllm", "--wait", "0")
    assert told.exit_code == 1
    assert "not done within 0 s; last: vLLM: failed" in told.stderr


def test_when_the_time_is_over_it_says_what_it_waited_for(place: Settings, client: redis.Redis) -> None:
    say(place, vllm=replace(STOPPED, phase=Phase.STARTING, reason="loads the model"), ollama=STOPPED)
    told = run(place, "mode", "set", "vllm", "--wait", "0.2")
    assert told.exit_code == 1
    assert "not done within 0.2 s; last: vLLM: starting: loads the model" in told.stderr
    assert client.get(keys.MODE) == "vllm"
    found = json.loads(run(place, "mode", "set", "vllm", "--wait", "0", "--json").stdout)
    assert (found["mode"], found["previous"], found["followed"]) == ("vllm", "vllm", False)
    assert [(phase["engine"], phase["phase"]) for phase in found["phases"]] == [("vllm", "starting"), ("ollama", "stopped")]


@pytest.mark.timeout(60)
def test_a_switch_that_somebody_else_undoes_ends_the_waiting(place: Settings, tmp_path: Path, client: redis.Redis) -> None:
    say(place, vllm=STOPPED, ollama=READY)
    with waiting(place, tmp_path, "vllm") as (child, lines):
        line_with(lines, "vLLM", "stopped")
        client.set(keys.MODE, "ollama")
        lines.read()
        assert child.stderr is not None
        assert "the mode was switched to ollama meanwhile" in child.stderr.read()
    assert child.returncode == 1


def test_without_a_controller_it_waits_for_the_engine_that_the_mode_prefers(place: Settings) -> None:
    report(place, OLLAMA, Readiness.READY)
    report(place, VLLM, Readiness.UNAVAILABLE, "connection refused")
    told = run(place, "mode", "set", "vllm", "--wait", "0.2")
    assert "No controller looks after the engines: nothing is started or stopped." in told.stdout
    assert told.exit_code == 1
    assert "last: vLLM: connection refused" in told.stderr
    told = run(place, "mode", "set", "ollama", "--wait", "5")
    assert (told.exit_code, told.stdout.splitlines()[0]) == (0, "Mode is ollama (was vllm).")
    assert run(place, "mode", "set", "auto", "--wait", "5").exit_code == 0


def test_a_mode_whose_engine_is_not_configured_is_not_waited_for(settings: Settings) -> None:
    told = run(settings, "mode", "set", "vllm", "--wait", "30")
    assert told.exit_code == 1
    assert "no engine that mode vllm prefers is configured: set AEGIS_VLLM_MODEL" in told.stderr


def test_a_dry_run_says_what_would_happen_and_writes_nothing(place: Settings, client: redis.Redis) -> None:
    say(place, vllm=STOPPED, ollama=READY, measured=MEASURED)
    busy = WorkerReport(worker_id="w", queue="chat", pid=1, in_flight={"ollama": 3})
    client.set(keys.worker("w"), json.dumps(vars(busy)))
    client.zadd(keys.WORKERS, {"w": 1.0})
    before = contents(client)
    told = run(place, "mode", "set", "vllm", "--dry-run")
    assert told.exit_code == 0
    assert told.stdout.startswith("Nothing is written. The mode is not set; in mode vllm:\n")
    assert "vLLM    would start; needs 40.7 GB: mode vllm\n" in told.stdout
    assert (
        "Ollama  would stop; 3 calls in flight there may take up to 120 s, then they are closed and wait again: mode vllm\n"
        in told.stdout
    )
    assert "Memory: 35.2 of 60.0 GB free (meminfo); no room for both engines: together they need 64.7 GB\n" in told.stdout
    found = json.loads(run(place, "mode", "set", "vllm", "--dry-run", "--json").stdout)
    assert [found["engines"][name]["act"] for name in ("vllm", "ollama")] == ["start", "stop"]
    assert (found["controller"], found["memory"]["free_gb"]) == ("host:1", 35.25)
    assert contents(client) == before
    assert workers.read_all(client) == [busy]


def test_a_dry_run_says_of_an_engine_that_somebody_else_runs_that_it_is_so(place: Settings) -> None:
    report(place, OLLAMA, Readiness.READY)
    told = run(place, "mode", "set", "vllm", "--dry-run").stdout
    assert "vLLM    should run; someone else runs it, and has to start it: mode vllm\n" in told
    assert "Ollama  stays as it is" in told
    assert "No controller leads: nothing is started or stopped" in told


def test_a_dry_run_has_nothing_to_wait_for(place: Settings) -> None:
    assert run(place, "mode", "set", "vllm", "--dry-run", "--wait", "3").exit_code == 2


def test_engines_show_what_the_controller_makes_of_them(place: Settings, client: redis.Redis) -> None:
    retrying = replace(FAILED, since=time.time(), retry_at=time.time() + 30.4, origin="PROFILE=pharma")
    say(place, vllm=retrying, ollama=replace(READY, since=time.time()), measured=MEASURED)
    told = run(place, "engines").stdout
    epoch = json.loads(run(place, "engines", "--json").stdout)["engines"]["vllm"]["epoch"]
    assert (
        f"vLLM    failed  0 s ago  {epoch}  fenced    process  PROFILE=pharma  "
        "it ended; it wrote: CUDA out of memory; 2 failed starts; tried again in 30 s\n" in told
    )
    assert f"Ollama  ready   0 s ago  {'-':{len(epoch)}}  admitted  ollama   mode key        mode ollama\n" in told
    assert "Memory: 35.2 of 60.0 GB free (meminfo)" in told
    assert "No controller leads" not in told
    found = json.loads(run(place, "engines", "--json").stdout)
    assert (found["controller"], found["memory"]["total_gb"]) == ("host:1", 60.0)
    shown = {name: found["engines"]["vllm"][name] for name in ("phase", "phase_reason", "said", "fenced", "failures", "retry_at")}
    assert shown == {
        "phase": "failed",
        "phase_reason": "it ended",
        "said": "CUDA out of memory",
        "fenced": True,
        "failures": 2,
        "retry_at": retrying.retry_at,
    }
    client.delete(keys.CONTROLLER)
    assert "No controller leads: what the last one said stays in force" in run(place, "engines").stdout


def test_engines_show_phases_also_where_somebody_else_runs_them(place: Settings) -> None:
    found = Control(phase=Phase.READY, since=time.time(), reason="mode auto")
    say(place, vllm=replace(found, phase=Phase.STOPPED, reason="connection refused (mode auto)"), ollama=found, measured=MEASURED)
    told = run(place, "engines").stdout
    assert (
        "ENGINE  PHASE    SINCE    EPOCH  BECAUSE\n"
        "vLLM    stopped  0 s ago  -      connection refused (mode auto)\n"
        "Ollama  ready    0 s ago  -      mode auto\n"
    ) in told
    assert "Memory:" not in told


def test_engines_say_nothing_of_phases_where_no_controller_ever_led(place: Settings) -> None:
    assert "PHASE" not in run(place, "engines").stdout
    found = json.loads(run(place, "engines", "--json").stdout)
    assert (found["controller"], found["memory"], found["engines"]["vllm"]["phase"]) == (None, None, None)
