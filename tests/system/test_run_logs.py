"""What all processes of a bad day print, and the file that `doctor --bundle` makes of it: nobody's text and no secret."""

import gzip
import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from celery.result import AsyncResult
from installation import Installation, eventually
from job_place import JobPlace, job_place
from pydantic import SecretStr

from aegis_workers.jobs.desk import Desk
from aegis_workers.jobs.desks import open_desk
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.submission import Terms
from aegis_workers.local import children, environment, process
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings

pytestmark = pytest.mark.timeout(400)  # eight processes start, and wait for what is killed among them

MARK = "Quillfeather"
SECRETS: Mapping[str, str] = {
    "vllm_api_key": "planted-api-key",
    "admin_token": "planted-admin-token",
    "flower_auth": "aegis:planted-flower-password",
}
SPOKEN = re.compile(r"(Admin API|Flower) on http://127\.0\.0\.1:\d+|worker: Warm shutdown \(MainProcess\)|")
WORKER = ("--loglevel", "debug")


@dataclass
class Day:
    """The installation, what its processes printed, the ids of its jobs, and those of its other tasks by what they are."""

    jobs: JobPlace
    printed: dict[str, str] = field(default_factory=dict)
    job_ids: list[str] = field(default_factory=list)
    task_ids: dict[str, str] = field(default_factory=dict)
    bundle: str = ""
    told: str = ""

    @property
    def place(self) -> Installation:
        return self.jobs.place

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was printed as JSON; the servers print their address before."""
        return [json.loads(line) for text in self.printed.values() for line in text.splitlines() if line.startswith("{")]

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    folder = tmp_path_factory.mktemp("day")
    hidden = {name: SecretStr(value) for name, value in SECRETS.items()}
    vllm = ("--call-seconds", "0.05", "--slots", "64")
    with job_place(folder, workers=0, vllm=vllm, call_timeout_s=1.0, health_dir=folder / "health", **hidden) as jobs:
        place = jobs.place
        servers = [children.start_admin(0, place.settings, folder), children.start_flower(0, place.settings, folder)]
        try:
            place.start_workers("extraction", "extraction", "chat", options=WORKER)
            place.await_engines(Engine.VLLM)
            jobs.start_controller()
            found = Day(jobs)
            live(found, children.address(servers[0]), children.address(servers[1]))
            target = folder / "bundle.json"
            found.told = doctor(place.settings, target)
            found.bundle = target.read_text()
            assert stat.S_IMODE(target.stat().st_mode) == 0o600
            jobs.stop_controllers()
            process.stop([*servers, *place.workers], 20)
            names = ("worker-extraction", "worker-chat", "controller", "admin", "flower")
            logs = [path for path in folder.rglob("*.log") if path.name.startswith(names)]
            assert len(logs) >= len(names)
            found.printed = {str(path.relative_to(folder)): path.read_text() for path in logs}
            yield found
        finally:
            process.stop(servers, 5)


def doctor(settings: Settings, target: Path) -> str:
    """What it says once it has written its bundle. A busy machine takes its time over all that it loads."""
    command = [sys.executable, "-m", "aegis_workers.cli", "doctor", "--bundle", str(target)]
    told = subprocess.run(command, env=environment.of(settings), capture_output=True, text=True, check=False, timeout=120)
    assert told.returncode == 0, told.stderr
    return told.stdout


def live(day: Day, admin: str, flower: str) -> None:
    """Jobs that meet what engines do wrong, a worker that is killed, callers who err, and people who look."""
    place = day.place
    settings = place.settings.model_copy(update={"admin_url": admin})
    with open_desk(settings) as desk:
        for behaviour in bad_days():
            place.behave(Engine.VLLM, **behaviour)
            await_rest(desk, submitted(day, desk, 3))
        place.behave(Engine.VLLM, hang=True)
        job_id = submitted(day, desk, 40)
        eventually(lambda: place.in_flight(Engine.VLLM) > 0)
        busy = next(worker for worker in place.workers if worker.name == "worker-extraction")
        busy.popen.kill()
        day.task_ids["in vain"] = ended(place.chat(f"{MARK}Chat", options={"deadline_s": 2}))
        place.behave(Engine.VLLM)
        await_rest(desk, job_id)
    day.task_ids["chat"] = ended(place.chat(f"{MARK}Chat"))
    items = [{"custom_id": f"{MARK}{number}", "text": f"{MARK}Text met Bo Hill."} for number in range(2)]
    day.task_ids["batch"] = ended(place.send("aegis.extract_batch", items=items))
    err(admin)
    for path in ("/tasks", "/broker", f"/task/{MARK}", f"/worker/{MARK}", f"/api/tasks?search={MARK}", "/api/workers?refresh=1"):
        httpx.get(flower + path, auth=("aegis", "planted-flower-password"), timeout=60)
    httpx.get(flower, auth=("aegis", f"{MARK}Guess"), timeout=60)


def bad_days() -> Sequence[Mapping[str, Any]]:
    return (
        {"answer": f"{MARK}Answer is no JSON"},
        {"error_status": 500, "error_message": f"{MARK}EngineWords", "times": 2},
        {"error_status": 400, "error_message": f"{MARK}Refusal", "times": 3},
        {"garbage": True, "times": 2},
        {"end": "missing", "times": 2},
        {"malformed_json": True, "times": 2},
    )


def submitted(day: Day, desk: Desk, count: int) -> str:
    items = [
        {"custom_id": f"{MARK}Id{number}", "text": f"{MARK}Text{number} met Bo Hill.", "metadata": {"note": f"{MARK}Note"}}
        for number in range(count)
    ]
    schema = {"type": "object", "properties": {f"{MARK}Property": {"type": "string"}}}
    options = {"instructions": f"{MARK}Rules"}
    terms = Terms(schema=schema, options=options, metadata={"name": f"{MARK}Name"}, key=f"{MARK}{len(day.job_ids)}")
    day.job_ids.append(desk.submit(Items(items=items, name=f"{MARK}Input"), terms).job_id)
    return day.job_ids[-1]


def ended(task: AsyncResult) -> str:
    """Its id, once it has ended, however it did."""
    task.get(timeout=60, propagate=False)
    return str(task.id)


def await_rest(desk: Desk, job_id: str) -> None:
    eventually(lambda: desk.find(job_id).is_at_rest, within_s=120)


def err(admin: str) -> None:
    """Requests that are wrong, each in a way of its own."""
    token = {"Authorization": f"Bearer {SECRETS['admin_token']}"}
    httpx.get(f"{admin}/v1/batches", headers={"Authorization": f"Bearer {MARK}Guess"}, timeout=30)
    httpx.get(f"{admin}/v1/batches/{MARK}", headers=token, timeout=30)
    httpx.post(f"{admin}/v1/batches", headers=token, json={f"{MARK}Field": f"{MARK}Value"}, timeout=30)
    httpx.post(f"{admin}/v1/batches", headers=token, content=f"{{{MARK}", timeout=30)
    files = {"file": (f"{MARK}.jsonl", f"{MARK} is no line".encode())}
    httpx.post(f"{admin}/v1/files", headers=token, data={"purpose": "batch"}, files=files, timeout=30)
    httpx.put(f"{admin}/api/v1/admin/llm/engine", headers=token, json={"mode": f"{MARK}Mode"}, timeout=30)


def marks(text: str) -> set[str]:
    return set(re.findall(rf"{MARK}\w*", text))


def leaked(day: Day, text: str) -> set[str]:
    password = urlsplit(day.place.settings.redis_url).password
    assert password
    hidden = {*SECRETS.values(), "planted-flower-password", password}
    return {secret for secret in hidden if secret in text}


@pytest.mark.parametrize("kind", ["worker-extraction", "worker-chat", "controller", "admin", "flower"])
def test_no_process_prints_what_a_caller_or_an_engine_wrote_or_a_secret(day: Day, kind: str) -> None:
    printed = "".join(text for name, text in day.printed.items() if kind in name)
    assert printed
    assert (marks(printed), leaked(day, printed)) == (set(), set())


def test_every_line_is_json_with_a_moment_and_a_level_but_for_what_is_said_at_the_start_and_the_end(day: Day) -> None:
    """And at the end: Celery's banner and farewell, and the address of a server."""
    for name, text in day.printed.items():
        _, ready, after = text.partition(' ready."')
        lines = (after if ready else text).splitlines()[1 if ready else 0 :]
        others = [line for line in lines if not line.startswith("{") and not SPOKEN.fullmatch(line)]
        assert (name, others) == (name, [])
    assert all({"event", "level", "timestamp"} <= line.keys() for line in day.lines)


def test_the_day_was_bad(day: Day) -> None:
    """Else nothing was shown."""
    events = {line["event"] for line in day.lines}
    assert {"call.finished", "batch.finished", "worker.died", "messages.put_back", "job.ended"} <= events
    assert {"empty", "failed", "invalid"} <= {line["status"] for line in day.said("call.finished")}


def test_a_line_about_a_call_has_the_ids_of_its_task_its_job_and_its_item(day: Day) -> None:
    calls = [line for line in day.said("call.finished") if "job" in line]
    assert {line["job"] for line in calls} == set(day.job_ids)
    for line in calls:
        assert line["call"] == f"{line['task']}:{line['item']}"
        assert isinstance(line["chunk"], int)
    assert {line["job"] for line in day.said("batch.finished")} == set(day.job_ids)
    assert all(line["task"] == line["batch"] for line in day.said("batch.finished"))


def test_a_line_about_a_call_of_a_task_that_is_of_no_job_has_the_ids_of_its_task_and_its_item(day: Day) -> None:
    calls = [line for line in day.said("call.finished") if "job" not in line]
    chat, batch = day.task_ids["chat"], day.task_ids["batch"]
    assert {(line["task"], line.get("item")) for line in calls} >= {(chat, None), (batch, 0), (batch, 1)}
    assert all(line["call"].startswith(f"{line['task']}:") for line in calls)


def test_a_chat_that_ended_in_vain_is_found_by_its_task(day: Day) -> None:
    """Celery's own lines have the id of a task in their text."""
    named = f"Task aegis.chat[{day.task_ids['in vain']}] raised"
    assert [line["event"].rpartition(" ")[2] for line in day.lines if line["event"].startswith(named)] == ["DeadlineExceeded"]


def test_the_bundle_has_no_text_and_no_secret_and_says_what_it_leaves_out(day: Day) -> None:
    assert (marks(day.bundle), leaked(day, day.bundle)) == (set(), set())
    bundle = json.loads(day.bundle)
    assert any("custom_ids" in left for left in bundle["left_out"])
    assert "no texts and no secrets" in day.told


def test_the_bundle_has_what_one_asks_for_at_night(day: Day) -> None:
    bundle = json.loads(day.bundle)
    assert {name for name, part in bundle.items() if isinstance(part, dict) and "missing" in part} == set()
    assert {job["id"] for job in bundle["jobs"]} == set(day.job_ids)
    assert all(job["journal"][-1]["state"] == job["state"] for job in bundle["jobs"])
    assert {worker["queue"] for worker in bundle["workers"]} >= {"extraction", "chat"}
    assert {said["queue"] for said in bundle["health_files"]} >= {"extraction", "chat"}
    assert [queue["queue"] for queue in bundle["queues"]] == ["extraction", "chat", "control"]
    assert bundle["system"]["engines"]["vllm"]["state"] == "ready"
    assert bundle["redis"]["redis_version"]
    assert bundle["switches"][-1]["mode"] == "vllm"
    assert bundle["versions"]["packages"]["aegis-workers"]
    shown = {setting["name"]: setting["value"] for setting in bundle["settings"]}
    assert set(shown["AEGIS_ADMIN_TOKEN"]) == {"*"}
    assert {finding["what"] for finding in bundle["findings"]} >= {"Memory", "vLLM driver", "Redis version"}


def test_a_bundle_of_what_is_not_there_says_so_and_may_be_compressed(tmp_path: Path, day: Day) -> None:
    gone = day.place.settings.model_copy(update={"redis_url": "redis://:planted@127.0.0.1:1/0", "data_dir": tmp_path / "none"})
    target = tmp_path / "bundle.json.gz"
    doctor(gone, target)
    text = gzip.decompress(target.read_bytes()).decode()
    bundle = json.loads(text)
    for part in ("system", "queues", "redis", "workers"):
        assert "127.0.0.1:1/0 does not answer" in bundle[part]["missing"]
    assert "planted" not in text
