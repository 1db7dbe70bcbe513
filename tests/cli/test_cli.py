"""The command line without a running system; `tests/system/test_commands.py` has it with one."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import click
import pytest
import redis
from click.testing import CliRunner, Result

from aegis_workers import settings as settings_module
from aegis_workers.cli import main
from aegis_workers.engines.base import Readiness
from aegis_workers.local import environment
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import connection, engine_status, keys, workers
from aegis_workers.state.engine_status import ReplicaStatus
from aegis_workers.state.workers import WorkerReport
from aegis_workers.worker import health
from aegis_workers.worker.health import Health

NOBODY = "redis://127.0.0.1:1/0"
Run = Callable[..., Result]


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command in an empty folder, with no setting but those given."""
    for name in environment.of(Settings(_env_file=None)):
        if name.startswith(("AEGIS_", "LLM_", "DEPLOYMENT_")):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **settings: str) -> Result:
        settings_module.load.cache_clear()
        return CliRunner().invoke(main, arguments, env=settings)

    yield run
    settings_module.load.cache_clear()


@pytest.fixture
def here(run: Run, settings: Settings) -> Run:
    """The same, on a Redis that answers."""

    def here(*arguments: str, **more: str) -> Result:
        return run(*arguments, AEGIS_REDIS_URL=settings.redis_url, **more)

    return here


def report(settings: Settings, engine: Engine, *replicas: ReplicaStatus, age_s: float = 0.0) -> None:
    async def share() -> None:
        async with connection.open_async(settings) as client:
            await engine_status.report(client, engine, replicas, complete=True, now=time.time() - age_s)

    anyio.run(share)


def publish(settings: Settings, worker: WorkerReport) -> None:
    async def share() -> None:
        async with connection.open_async(settings) as client:
            await workers.publish(client, worker)

    anyio.run(share)


@pytest.mark.parametrize("path", list(commands()), ids=lambda path: " ".join(path) or "aegis-workers")
def test_every_command_explains_itself_within_80_columns(run: Run, path: Sequence[str]) -> None:
    told = run(*path, "--help")
    assert told.exit_code == 0
    assert told.output.startswith(f"Usage: {' '.join(['main', *path])}")
    assert max(map(len, told.output.splitlines())) <= 80


HEAVY = ("aiohttp", "anyio", "asyncio", "celery", "httpx", "kombu", "ollama", "pydantic", "redis", "rich", "structlog")


@pytest.mark.parametrize("path", list(commands()), ids=lambda path: " ".join(path) or "aegis-workers")
def test_no_help_loads_what_takes_time(path: Sequence[str]) -> None:
    script = f"""
import sys
from aegis_workers.cli import main
try:
    main([*sys.argv[1:], "--help"])
finally:
    print([name for name in {HEAVY} if name in sys.modules])
"""
    told = subprocess.run([sys.executable, "-c", script, *path], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "[]"


def test_mode_get_prints_the_word_and_says_on_stderr_why_it_is_not_the_keys(here: Run, client: redis.Redis) -> None:
    absent = here("mode", "get", LLM_ENGINE_MODE="ollama")
    assert (absent.exit_code, absent.stdout) == (0, "ollama\n")
    assert "aegis:llm_engine_mode is not set" in absent.stderr

    client.set(keys.MODE, " VLLM\n")
    known = here("mode", "get")
    assert (known.stdout, known.stderr) == ("vllm\n", "")

    client.set(keys.MODE, "turbo")
    for command in (("mode", "get", "--json"), ("engines", "--json")):
        unknown = json.loads(here(*command).stdout)
        assert unknown["mode"] == "vllm"
        assert "unknown engine mode 'turbo'" in unknown["problem"]


def test_a_mode_key_of_another_type_is_said_to_be_that(here: Run, client: redis.Redis) -> None:
    client.rpush(keys.MODE, "vllm")
    told = here("mode", "get")
    assert (told.exit_code, told.stdout) == (0, "auto\n")
    assert "aegis:llm_engine_mode holds a list" in told.stderr
    assert here("engines").stdout.startswith("Mode: auto (aegis:llm_engine_mode holds a list")


def test_a_redis_that_refuses_a_command_is_not_said_to_be_away(here: Run, client: redis.Redis) -> None:
    client.set(keys.engine(Engine.VLLM), "no hash")
    told = here("engines")
    assert told.exit_code == 1
    assert "refused a command (WRONGTYPE" in told.stderr
    assert "does not answer" not in told.stderr


def test_mode_set_writes_the_key_and_tells_what_it_was(here: Run, client: redis.Redis) -> None:
    assert here("mode", "set", "vllm").stdout == "Mode is vllm (was not set).\n"
    assert here("mode", "set", "VLLM").stdout == "Mode is vllm, as it was.\n"
    assert json.loads(here("mode", "set", "auto", "--json").stdout) == {"mode": "auto", "previous": "vllm"}
    assert client.get(keys.MODE) == "auto"


def test_an_unknown_mode_is_wrong_usage_and_changes_nothing(here: Run, client: redis.Redis) -> None:
    told = here("mode", "set", "turbo")
    assert told.exit_code == 2
    assert "'turbo' is not one of 'vllm', 'ollama', 'auto'" in told.stderr
    assert not client.exists(keys.MODE)


@pytest.mark.parametrize(
    "command", [("mode", "get"), ("mode", "set", "vllm"), ("engines",), ("engines", "--json"), ("chat", "Hi")]
)
def test_without_redis_one_line_says_so_and_the_exit_status_is_1(run: Run, command: Sequence[str]) -> None:
    told = run(*command, AEGIS_REDIS_URL=NOBODY)
    assert told.exit_code == 1
    [line] = told.output.splitlines()
    assert line.startswith(f"Error: Redis at {NOBODY} does not answer")
    assert line.endswith("start it, or set AEGIS_REDIS_URL")


def test_a_bad_setting_is_named_in_one_line(run: Run) -> None:
    told = run("engines", AEGIS_OLLAMA_LIMIT="many")
    assert told.exit_code == 1
    assert told.output.startswith("Error: AEGIS_OLLAMA_LIMIT=many: Input should be a valid integer")
    assert len(told.output.splitlines()) == 1


def test_engines_without_a_worker_say_so(here: Run) -> None:
    told = here("engines", AEGIS_OLLAMA_MODEL="sim")
    assert told.exit_code == 0
    assert "stale: nobody looks at it" in told.stdout
    assert "AEGIS_VLLM_MODEL is not set" in told.stdout
    assert "Workers: none (start one: celery -A aegis_workers worker -Q extraction)" in told.stdout
    found = json.loads(here("engines", "--json", AEGIS_OLLAMA_MODEL="sim").stdout)
    assert found["engines"]["vllm"]["state"] == "not_configured"
    assert not found["engines"]["vllm"]["stale"]
    assert found["engines"]["ollama"] | {"stale": True, "reason": "not probed yet"} == found["engines"]["ollama"]


def test_engines_show_each_replica_and_what_calls_wait_for(here: Run, settings: Settings) -> None:
    first = ReplicaStatus(url="http://a:8000", state=Readiness.READY)
    second = ReplicaStatus(url="http://b:8000", state=Readiness.UNAVAILABLE, reason="connection refused")
    report(settings, Engine.VLLM, first, second)
    for number in range(2):
        waiting = {"waits for a slot: vLLM has 256 of 256 calls in flight": 3}
        busy = WorkerReport(worker_id=str(number), queue="extraction", pid=1, in_flight={"vllm": 256}, waiting=waiting)
        publish(settings, busy)

    told = here("engines", AEGIS_VLLM_MODEL="sim").stdout
    assert "vLLM    ready           0 s ago  0 s ago        512    512      0" in told
    assert "vLLM    http://a:8000: ready\n" in told
    assert "vLLM    http://b:8000: unavailable: connection refused\n" in told
    assert "    6  waits for a slot: vLLM has 256 of 256 calls in flight\n" in told
    assert "Workers: extraction 2\n" in told


def test_a_state_that_nobody_has_looked_at_for_long_is_stale(here: Run, settings: Settings) -> None:
    report(settings, Engine.OLLAMA, ReplicaStatus(url="http://a:1", state=Readiness.READY), age_s=300)
    found: dict[str, Any] = json.loads(here("engines", "--json", AEGIS_OLLAMA_MODEL="sim").stdout)["engines"]["ollama"]
    assert (found["state"], found["stale"]) == ("ready", True)
    assert "5 min ago" in here("engines", AEGIS_OLLAMA_MODEL="sim").stdout


def test_what_is_no_terminal_gets_each_row_on_one_line_without_colours(here: Run, settings: Settings) -> None:
    reason = "the model is not there " * 10
    report(settings, Engine.OLLAMA, ReplicaStatus(url="http://a:1", state=Readiness.UNAVAILABLE, reason=reason))
    told = here("engines", AEGIS_OLLAMA_MODEL="sim").stdout
    assert reason.strip() in told
    assert "\x1b" not in told
    assert all(line == line.rstrip() for line in told.splitlines())


def test_doctor_shows_where_each_value_came_from_and_masks_secrets(here: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("AEGIS_OLLAMA_LIMIT=7\nAEGIS_FLOWER_AUTH=me:planted\n")
    told = here(
        "doctor", "--json", DEPLOYMENT_PROFILE="chat_only", AEGIS_VLLM_API_KEY="planted", AEGIS_VLLM_URL="http://u:planted@h:1"
    )
    shown = {setting["name"]: (setting["value"], setting["origin"]) for setting in json.loads(told.stdout)["settings"]}
    assert shown["AEGIS_OLLAMA_LIMIT"] == ("7", "file")
    assert shown["AEGIS_FLOWER_AUTH"] == ("********", "file")
    assert shown["LLM_ENGINE_MODE"] == ("ollama", "profile")
    assert shown["DEPLOYMENT_PROFILE"] == ("chat_only", "environment")
    assert shown["AEGIS_VLLM_API_KEY"] == ("********", "environment")
    assert shown["AEGIS_VLLM_URL"] == ("http://u:***@h:1", "environment")
    assert shown["AEGIS_VLLM_LIMIT"] == ("256", "default")
    assert set(shown) == {str(field.alias) for field in Settings.model_fields.values()}
    assert "planted" not in told.output + here("doctor", AEGIS_VLLM_API_KEY="planted").output


def test_doctor_says_what_is_missing_and_ends_with_1(run: Run) -> None:
    told = run("doctor", AEGIS_REDIS_URL=NOBODY)
    assert told.exit_code == 1
    assert f"Redis    missing  Redis at {NOBODY} does not answer" in told.stdout
    assert "Ollama   warning  not configured: set AEGIS_OLLAMA_MODEL to use it\n" in told.stdout
    assert "Engines  missing  none is ready: calls would wait\n" in told.stdout


def test_doctor_warns_of_a_redis_that_would_drop_queued_tasks(here: Run, client: redis.Redis) -> None:
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        told = here("doctor", "--json")
    finally:
        client.config_set("maxmemory-policy", "noeviction")
    assert told.exit_code == 1
    [finding] = [finding for finding in json.loads(told.stdout)["findings"] if finding["what"] == "Redis eviction"]
    assert finding["level"] == "missing"
    assert finding["detail"] == "allkeys-lru: a full Redis would drop queued tasks; set maxmemory-policy noeviction"


def say(folder: Path, node: str, *, age_s: float = 0.0, **facts: Any) -> None:
    well = {"live": True, "ready": True, "reason": None, "stopping": False, "queue": "chat", "worker_id": "w", "pid": 1}
    health.write(folder, Health(node=node, at=time.time() - age_s, **{**well, **facts}))


def test_health_without_a_folder_names_the_setting(run: Run) -> None:
    told = run("health")
    assert told.exit_code == 1
    assert told.output == "Error: AEGIS_HEALTH_DIR is not set: set it to a folder, here and for the workers\n"


def test_health_of_no_worker_at_all_is_a_failure(run: Run, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        told = run("health", AEGIS_HEALTH_DIR=str(folder))
        assert told.exit_code == 1
        assert f"no worker has written to AEGIS_HEALTH_DIR={folder}" in told.output


def test_health_is_that_of_every_worker_or_of_those_that_are_named(run: Run, tmp_path: Path) -> None:
    say(tmp_path, "chat@host", in_flight={"ollama": 2}, waiting={"its turn": 1})
    say(tmp_path, "extraction@host", ready=False, reason="Redis does not answer")
    say(tmp_path, "control@host", age_s=60)
    folder = {"AEGIS_HEALTH_DIR": str(tmp_path)}

    told = run("health", **folder)
    assert told.exit_code == 1
    assert [line.split()[:2] for line in told.stdout.splitlines()[1:]] == [
        ["chat@host", "ready"],
        ["control@host", "dead"],
        ["extraction@host", "alive"],
    ]
    assert "Redis does not answer\n" in told.stdout
    assert "it has said nothing for 60 s: it was killed, or it hangs\n" in told.stdout
    statuses = {name: run("health", name, **folder).exit_code for name in ("chat", "chat@host", "extraction", "control", "other")}
    assert statuses == {"chat": 0, "chat@host": 0, "extraction": 1, "control": 1, "other": 1}
    assert run("health", "chat", "extraction", "--live", **folder).exit_code == 0
    assert "it has not started, or it has ended" in run("health", "other", **folder).stdout


def test_health_as_json_has_what_the_table_has(run: Run, tmp_path: Path) -> None:
    say(tmp_path, "chat@host", ready=False, reason="Redis does not answer", waiting={"its turn": 1})
    told = run("health", "--json", "--live", "chat", "other", AEGIS_HEALTH_DIR=str(tmp_path))
    assert told.exit_code == 1
    chat, other = json.loads(told.stdout)
    assert (chat["node"], chat["ok"], chat["live"], chat["ready"]) == ("chat@host", True, True, False)
    assert (chat["reason"], chat["waiting"]) == ("Redis does not answer", {"its turn": 1})
    assert (other["node"], other["ok"]) == ("other", False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "Missing option '--port'"),
        (("--port", "70000"), "70000 is not in the range"),
        (("--port", "0", "--slots", "0"), "0 is not in the range x>=1"),
        (("--port", "0", "--tokens-per-s", "fast"), "'fast' is not a valid float"),
        (("--port", "0", "--call-seconds", "1", "--tokens-per-s", "5"), "give --call-seconds or --tokens-per-s, not both"),
        (("--port", "0", "--memory-gb", "40"), "give memory-pool and memory-gb together"),
    ],
)
@pytest.mark.parametrize("engine", ["vllm", "ollama"])
def test_wrong_options_of_a_simulator_are_wrong_usage(run: Run, engine: str, options: Sequence[str], words: str) -> None:
    told = run("simulate", engine, *options)
    assert told.exit_code == 2
    assert words in told.stderr


def test_a_simulator_names_the_address_that_is_taken(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = run("simulate", "ollama", "--port", str(port))
    assert told.exit_code == 1
    assert told.stderr == f"Error: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_up_without_an_engine_names_the_settings(run: Run) -> None:
    told = run("up")
    assert told.exit_code == 1
    assert "No engine is configured: set AEGIS_VLLM_MODEL or AEGIS_OLLAMA_MODEL, or use --simulate" in told.output


def test_demo_takes_the_engine_by_its_name(run: Run) -> None:
    told = run("demo", "--engine", "vllm", "missing.txt")
    assert "is not one of" not in told.output
    assert "missing.txt" in told.output


def test_an_engine_that_is_passed_over_because_its_calls_failed_says_so(
    here: Run, settings: Settings, client: redis.Redis
) -> None:
    url = "http://one"
    report(settings, Engine.VLLM, ReplicaStatus(url=url, state=Readiness.READY))
    breaker = {"opens": 1, "until_ms": (time.time() + 20) * 1000}
    client.hset(keys.engine(Engine.VLLM), keys.breaker_field(url), json.dumps(breaker))
    assert "its last calls failed: asked again in" in here("engines", AEGIS_VLLM_MODEL="m").output
    found = json.loads(here("engines", "--json", AEGIS_VLLM_MODEL="m").output)["engines"]["vllm"]
    assert (found["state"], found["replicas"][0]["breaker"]) == ("ready", "open")


def finding(told: Result, what: str) -> tuple[str, str]:
    [found] = [found for found in json.loads(told.stdout)["findings"] if found["what"] == what]
    return found["level"], found["detail"]


def test_doctor_says_what_memory_the_controller_would_measure(here: Run, tmp_path: Path) -> None:
    measured = tmp_path / "memory.json"
    measured.write_text('{"total_gb": 128, "free_gb": 64.5}')
    told = here("doctor", "--json", AEGIS_MEMORY_SOURCE=str(measured))
    assert finding(told, "Memory") == ("ok", f"64.5 of 128.0 GB free, by {measured}")
    told = here("doctor", "--json", AEGIS_MEMORY_SOURCE=str(tmp_path / "none.json"))
    assert finding(told, "Memory") == (
        "warning",
        f"{tmp_path}/none.json cannot be read (No such file or directory): correct AEGIS_MEMORY_SOURCE",
    )


def test_doctor_names_an_extra_that_is_missing(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "docker", None)
    chosen = {"AEGIS_VLLM_MODEL": "m", "AEGIS_VLLM_DRIVER": "docker", "AEGIS_VLLM_CONTAINER": "engine"}
    told = here("doctor", "--json", AEGIS_MEMORY_SOURCE="nvml", **chosen)
    assert finding(told, "Memory") == (
        "warning",
        "NVML is not installed: pip install 'aegis-workers[gpu]', or AEGIS_MEMORY_SOURCE=meminfo",
    )
    assert finding(told, "vLLM driver") == (
        "warning",
        "docker: the Docker SDK is not installed: pip install 'aegis-workers[docker]'",
    )


def test_doctor_says_whether_the_command_of_an_engine_is_there(here: Run) -> None:
    chosen = {"AEGIS_VLLM_MODEL": "m", "AEGIS_VLLM_DRIVER": "process"}
    there = here("doctor", "--json", AEGIS_VLLM_COMMAND=f"{sys.executable} -m vllm", **chosen)
    assert finding(there, "vLLM driver") == ("ok", "process: can start and stop it here")
    gone = here("doctor", "--json", AEGIS_VLLM_COMMAND="no-such-vllm serve m --api-key planted", **chosen)
    level, detail = finding(gone, "vLLM driver")
    assert (level, detail.partition(":")[0]) == ("warning", "process")
    assert "there is no command no-such-vllm here: correct AEGIS_VLLM_COMMAND" in detail
    assert "planted" not in gone.stdout


def test_doctor_leaves_alone_what_others_start(here: Run) -> None:
    level, detail = finding(here("doctor", "--json", AEGIS_OLLAMA_MODEL="m"), "Ollama driver")
    assert (level, detail.partition(":")[0]) == ("ok", "external")


def test_a_bundle_that_cannot_be_written_is_said(here: Run, tmp_path: Path) -> None:
    told = here("doctor", "--bundle", str(tmp_path / "none" / "bundle.json"))
    assert (told.exit_code, "cannot be written: No such file or directory" in told.output) == (1, True)


def test_mode_history_tells_who_switched_and_what_it_replaced(here: Run, client: redis.Redis) -> None:
    assert here("mode", "history").stdout == "The mode was never switched.\n"
    here("mode", "set", "vllm")
    client.set(keys.MODE, "ollama")
    here("mode", "get")
    header, last, first = (line.split() for line in here("mode", "history").stdout.splitlines())
    assert header == ["SWITCHED", "MODE", "WAS", "BY", "PHASES"]
    assert last[-4:] == ["ollama", "vllm", "raw", "-"]
    assert first[-5:] == ["vllm", "not", "set", "cli", "-"]
    (newest,) = json.loads(here("mode", "history", "--json", "--limit", "1").stdout)["switches"]
    assert (newest["mode"], newest["previous"], newest["source"], newest["phases"]) == ("ollama", "vllm", "raw", [])
