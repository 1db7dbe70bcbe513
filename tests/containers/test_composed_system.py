"""The compose file with simulators as engines, as the README has it started."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import readme
from composition import Composition, docker, eventually, lines_by_id
from readme import Block

BUILD = "docker build -f compose/Dockerfile -t aegis-workers:local .\n"
START, USE, ROLL, STOP = (block for block in readme.blocks() if block.section == "Containers")
# Who may be reached from the host, and at which port of the container.
PUBLISHED = {"admin": "8080/tcp", "flower": "5555/tcp"}
UP_WITHIN_S = 60.0
BASE = "python:3.11-slim-bookworm"
MOST_OVER_BASE_BYTES = 250_000_000
# Calls at the engine when something happens to a worker, at least.
BUSY = 64
TEXT = "Ada Stone leads Brightwater Labs in Oslo. Brightwater Labs acquired Norfield Systems in Bergen."


@pytest.fixture(scope="session")
def measured() -> dict[str, float]:
    return {}


@pytest.fixture(scope="session")
def system(composed: Composition, measured: dict[str, float]) -> Composition:
    """The system, started by the README, with a first job done.

    Docker's driver vfs copies the whole image for each container, which says nothing of this system: there it is not measured.
    """
    prepared, up, _ = START.text.removeprefix(BUILD).partition("docker-compose up -d\n")
    if docker("info", "--format", "{{.Driver}}").strip() == "vfs":
        composed.type(f"{prepared}docker-compose up --no-start", where=".")
        prepared = "cd compose\n"
    began = time.monotonic()
    composed.type(prepared + up, where=".")
    follow(composed, USE)
    measured["up_s"] = time.monotonic() - began
    composed.await_healthy()
    return composed


def follow(composed: Composition, block: Block) -> None:
    """What a block prints must be what the README shows."""
    printed = composed.type(f"exec 2>&1\n{block.text}")
    said = block.output
    assert said is None or readme.shows(printed, said), f"line {block.line} says\n{said}\nand this was printed:\n{printed}"


def test_the_readme_builds_the_image_that_is_tested_here() -> None:
    assert START.text.startswith(BUILD)


def test_a_job_is_finished_within_a_minute_of_the_first_command(
    system: Composition, measured: dict[str, float], record_property: Callable[[str, object], None]
) -> None:
    del system
    record_property("compose up to a finished job, s", round(measured["up_s"], 1))
    assert measured["up_s"] <= UP_WITHIN_S


def test_the_image_is_small(composed: Composition, record_property: Callable[[str, object], None]) -> None:
    size, base = (int(docker("image", "inspect", name, "--format", "{{.Size}}")) for name in (composed.image, BASE))
    record_property("image over its base, MB", round((size - base) / 1e6))
    assert size - base <= MOST_OVER_BASE_BYTES


def test_every_container_is_healthy_and_without_rights(system: Composition) -> None:
    found = {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in system.containers()}
    assert set(found) == {
        *("redis", "extraction", "chat", "control", "controller", "admin", "flower", "simulate-vllm", "simulate-ollama")
    }
    for name, one in found.items():
        host = one["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert not host["CapAdd"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["Init"], name
        assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "5"}, name
        assert host["Memory"] > 0, name
        assert not any("docker.sock" in mount["Source"] for mount in one["Mounts"]), name
        status = docker("exec", one["Id"], "cat", "/proc/1/status")
        assert re.search(r"^Uid:\s+(\d+)", status, re.MULTILINE)[1] != "0", name  # type: ignore[index]
        assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE), name
        assert "Read-only file system" in docker("exec", one["Id"], "sh", "-c", "touch /etc/x 2>&1 || true"), name


def test_each_secret_is_in_the_containers_that_need_it_only(system: Composition) -> None:
    secrets = {name: value for name, value in env_file(system).items() if name in {"AEGIS_ADMIN_TOKEN", "AEGIS_FLOWER_AUTH"}}
    for name, secret in secrets.items():
        having = {
            one["Config"]["Labels"]["com.docker.compose.service"]
            for one in system.containers()
            if any(secret in variable for variable in one["Config"]["Env"])
        }
        assert having == {"AEGIS_ADMIN_TOKEN": {"admin"}, "AEGIS_FLOWER_AUTH": {"flower"}}[name]


def test_only_admin_and_flower_are_published_and_on_loopback_alone(system: Composition) -> None:
    for one in system.containers():
        service = one["Config"]["Labels"]["com.docker.compose.service"]
        bound = {port: hosts for port, hosts in one["NetworkSettings"]["Ports"].items() if hosts}
        assert set(bound) == ({PUBLISHED[service]} if service in PUBLISHED else set()), service
        assert {host["HostIp"] for hosts in bound.values() for host in hosts} <= {"127.0.0.1"}, service


def test_redis_keeps_what_it_is_told_behind_a_password_in_a_network_of_its_own(system: Composition) -> None:
    [redis] = system.containers("redis")
    ask = ("exec", redis["Id"], "sh", "-c")
    assert "NOAUTH" in docker(*ask, "redis-cli dbsize 2>&1")
    told = docker(
        *ask, 'export REDISCLI_AUTH="$REDIS_PASSWORD"; redis-cli config get appendonly; redis-cli config get maxmemory-policy'
    )
    assert told.split() == ["appendonly", "yes", "maxmemory-policy", "noeviction"]
    [network] = redis["NetworkSettings"]["Networks"]
    assert json.loads(docker("network", "inspect", network))[0]["Internal"]
    password = env_file(system)["REDIS_PASSWORD"]
    assert password not in docker("top", redis["Id"])
    outside = "import socket\ntry: socket.create_connection(('redis', 6379), 3)\nexcept OSError: print('unreachable')"
    assert system.python("simulate-vllm", outside) == "unreachable\n"
    assert system.python("admin", outside) == ""


def test_the_admin_api_answers_on_the_host_to_its_token_only(system: Composition) -> None:
    address = system.compose("port", "admin", "8080").strip()
    ask = f"curl -s -o /dev/null -w '%{{http_code}}' http://{address}"
    token = env_file(system)["AEGIS_ADMIN_TOKEN"]
    assert [system.type(f"{ask}/healthz"), system.type(f"{ask}/v1/batches")] == ["200", "401"]
    assert system.type(f"{ask}/v1/batches -H 'Authorization: Bearer {token}'") == "200"


def test_flower_answers_on_the_host_to_its_login_only(system: Composition) -> None:
    address = system.compose("port", "flower", "5555").strip()
    ask = f"curl -s -o /dev/null -w '%{{http_code}}' http://{address}/workers"
    assert system.type(ask) == "401"
    assert system.type(f"{ask} -u '{env_file(system)['AEGIS_FLOWER_AUTH']}'") == "200"


def test_a_worker_that_is_killed_loses_nothing_and_starts_again(system: Composition) -> None:
    job, items = submit(system, 150)
    eventually(lambda: in_flight(system) >= BUSY)
    [worker] = system.containers("extraction")
    kill = "import glob, json, os; [path] = glob.glob('/tmp/health/*.json'); os.kill(json.load(open(path))['pid'], 9)"
    system.python("extraction", kill)

    assert_whole(system, job, items)

    [after] = system.containers("extraction")
    assert (after["Id"], after["RestartCount"]) == (worker["Id"], worker["RestartCount"] + 1)


def test_a_killed_redis_comes_back_with_what_was_queued(system: Composition) -> None:
    job, items = submit(system, 150)
    eventually(lambda: in_flight(system) >= BUSY)
    [redis] = system.containers("redis")
    docker("kill", redis["Id"])
    docker("start", redis["Id"])
    assert_whole(system, job, items)


def test_workers_are_replaced_by_another_version_under_load_and_nothing_is_lost(system: Composition) -> None:
    job, items = submit(system, 600)
    eventually(lambda: in_flight(system) >= BUSY)
    [before] = system.containers("extraction")

    rolling = ROLL.text.replace("docker stop", "sleep 5\ndocker stop", 1)  # both versions have work meanwhile
    system.type(rolling, AEGIS_IMAGE=system.next_image)

    assert system.status(job)["done"] < items, "the job was done before the old version had gone"
    assert_whole(system, job, items)
    [after] = system.containers("extraction")
    assert (before["Config"]["Image"], after["Config"]["Image"]) == (system.image, system.next_image)
    again = [line for line in system.results(job) if line["attempts"] != 1]
    assert again == [], "to stop in order costs no attempt"


def test_the_controller_starts_and_stops_the_container_of_vllm_where_it_may(system: Composition) -> None:
    network = f"{system.project}_engines"
    name = f"{system.project}-vllm"
    docker(
        *("create", "--name", name, "--label", f"com.docker.compose.project={system.project}", "--network", network),
        *("--network-alias", "started", system.image, "aegis-workers", "simulate", "vllm", "--host", "0.0.0.0", "--port", "8000"),  # noqa: S104
        *("--model", "meta-llama/Llama-3.1-8B-Instruct"),
    )
    driven = "docker-compose -f compose.yaml -f compose.docker-driver.yaml up -d --no-deps controller"
    group = system.type("stat -c %g /var/run/docker.sock").strip()
    settings = {"DOCKER_GID": group, "AEGIS_VLLM_CONTAINER": name}
    # The memory gate holds here too, and this host need not have what a real engine takes.
    changes = "AEGIS_VLLM_URL=http://started:8000\nAEGIS_VLLM_MEMORY_GB=0.5\n"
    system.type(f"printf '{changes}' >> .env; {driven}", **settings)
    mode = ("exec", "-T", "admin", "aegis-workers", "mode", "set")
    system.compose(*mode, "vllm", "--wait", "60")
    assert state(name)["Running"]
    system.compose(*mode, "ollama", "--wait", "60")
    assert not state(name)["Running"]


def test_all_of_it_is_gone_when_the_readme_has_it_stopped(system: Composition) -> None:
    kept = volumes(system)
    system.type(f"docker rm -f {system.project}-vllm >/dev/null 2>&1 || true")
    follow(system, STOP)
    assert not system.containers()
    assert volumes(system) == kept


def submit(system: Composition, items: int) -> tuple[str, int]:
    """A job of so many documents; its id."""
    lines = "".join(
        json.dumps({"custom_id": f"page-{number}", "text": f"{TEXT} Page {number}."}) + "\n" for number in range(items)
    )
    (system.folder / "compose" / "many.jsonl").write_text(lines)
    return system.compose("exec", "-T", "admin", "aegis-workers", "submit", "-", "<", "many.jsonl").split()[0], items


def in_flight(system: Composition) -> int:
    """Calls at the simulator of vLLM, by its own count."""
    ask = "import json, urllib.request as r; print(json.load(r.urlopen('http://127.0.0.1:8000/_sim/stats'))['in_flight'])"
    return int(system.python("simulate-vllm", ask))


def assert_whole(system: Composition, job: str, items: int) -> None:
    """The job ends with one line for each item, and all are well."""
    eventually(lambda: system.status(job)["state"] == "completed")
    results = system.results(job)
    assert lines_by_id(results) == {f"page-{number}": 1 for number in range(items)}
    assert {line["status"] for line in results} == {"ok"}


def env_file(system: Composition) -> Mapping[str, str]:
    """What `.env` sets."""
    lines = (system.folder / "compose" / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def state(name: str) -> Mapping[str, Any]:
    """What Docker says of a container."""
    found: Mapping[str, Any] = json.loads(docker("inspect", name))[0]["State"]
    return found


def volumes(system: Composition) -> Sequence[str]:
    """The volumes of the project."""
    label = f"label=com.docker.compose.project={system.project}"
    return sorted(docker("volume", "ls", "--quiet", "--filter", label).split())
