"""Flower on a real installation, as a browser shows it and as its API answers."""

import json
import math
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chromium
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from installation import Installation, eventually
from job_place import JobPlace, job_place
from playwright.sync_api import Page
from pydantic import SecretStr

from aegis_workers.local import children, environment, process
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import held, keys
from aegis_workers.worker import flower

pytestmark = pytest.mark.timeout(240)  # a browser and six processes start

MARK = "Quillfeather"
LOGIN = ("aegis", "planted, flower password")
PAGE_WITHIN_MS = 30_000
NOBODY = "redis://127.0.0.1:1/0"


def text_marks(text: str) -> set[str]:
    return set(re.findall(rf"{MARK}\w*", text))


@dataclass
class Watched:
    """A job that runs, and Flower beside it. `heard` is every answer that the browser had."""

    jobs: JobPlace
    url: str
    heard: list[str] = field(default_factory=list)

    @property
    def place(self) -> Installation:
        return self.jobs.place

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, auth=LOGIN, timeout=30)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A job of many calls, whose texts, names and answers hold the mark."""
    folder = tmp_path_factory.mktemp("flower")
    secret = SecretStr(":".join(LOGIN))
    with job_place(folder, vllm=("--call-seconds", "0.4", "--slots", "8"), vllm_limit=8, flower_auth=secret) as jobs:
        child = children.start_flower(0, jobs.place.settings, jobs.place.logs)
        try:
            found = Watched(jobs, children.address(child))
            eventually(lambda: found.get("/api/workers").is_success)
            items = ((f"{MARK}Id{number}", f"{MARK}Text{number} met Bo Hill.") for number in range(6000))
            jobs.submit(items, key=f"{MARK}Key", metadata={"note": f"{MARK}Note"}, options={"instructions": f"{MARK}Rules"})
            jobs.start_controller()
            eventually(lambda: "engine=vllm" in found.get("/api/tasks").text, within_s=60)
            yield found
        finally:
            process.stop([child], 5)


@contextmanager
def opened(watched: Watched) -> Iterator[Page]:
    with chromium.browser() as browser:
        login = {"username": LOGIN[0], "password": LOGIN[1]}
        page = browser.new_context(http_credentials=login, base_url=watched.url).new_page()  # type: ignore[arg-type]
        page.set_default_timeout(PAGE_WITHIN_MS)
        page.on("response", lambda answer: watched.heard.append(answer.text() if answer.ok else ""))
        yield page


def test_the_pages_show_engine_mode_and_time_of_a_job_that_runs_and_no_text_of_it(watched: Watched) -> None:
    with opened(watched) as page:
        page.goto("/tasks")
        row = page.locator("#tasks-table tbody tr", has_text="engine=vllm").first
        row.wait_for()
        shown = row.inner_text()
        assert "aegis.read_chunks" in shown
        assert re.search(r"\bok \d+ engine=vllm mode=vllm \d+\.\d\d s", shown)
        page.goto(row.locator("a[href*='/task/']").first.get_attribute("href") or "")
        seen = [page.content()]
        assert re.search(r"ok \d+ engine=vllm mode=vllm", page.locator("body").inner_text())
        for path in ("/workers", "/broker", "/tasks"):
            page.goto(path)
            page.wait_for_load_state("networkidle")
            seen.append(page.content())
        assert "extraction@" in seen[1]
    assert text_marks("".join([*seen, *watched.heard])) == set()
    assert all(SecretStr(secret).get_secret_value() not in "".join(seen) for secret in LOGIN[1:])


def test_the_queues_page_counts_what_waits_and_what_workers_hold(watched: Watched) -> None:
    """No worker takes from `chat` here; one takes from `extraction`, and holds what it has taken until it is done."""
    place = watched.place
    for priority in (0, 0, 9):
        place.producer.send_task("aegis.generate", args=["Hello."], queue="chat", priority=priority)
    client = place.redis
    [worker_id] = [str(name) for name, queue in client.hgetall(keys.WORKER_QUEUES).items() if queue == "extraction"]
    waiting = client.llen("chat") + client.llen(f"chat{held.PRIORITY_SEPARATOR}9")
    assert waiting == 3

    def agrees() -> bool:
        """The job goes on between two looks."""
        before = [client.llen("extraction"), client.llen(keys.held(worker_id))]
        rows = {row["name"]: row for row in watched.get("/api/queues/length").json()["active_queues"]}
        after = [client.llen("extraction"), client.llen(keys.held(worker_id))]
        assert rows["chat"] == {
            "name": "chat",
            "messages": 3,
            "messages_ready": 3,
            "messages_unacknowledged": 0,
            "consumers": 0,
        }
        extraction = rows["extraction"]
        assert extraction["consumers"] == 1
        assert extraction["messages"] == extraction["messages_ready"] + extraction["messages_unacknowledged"]
        return before == after == [extraction["messages_ready"], extraction["messages_unacknowledged"]] and before[1] > 0

    eventually(agrees, within_s=30)
    page = re.sub(r"<[^>]+>|\s+", " ", watched.get("/broker").text)
    assert re.search(r"\bchat +3 +0 +3 +0\b", page)


def test_what_a_producer_tells_of_its_own_task_before_any_worker_has_it_is_not_shown(watched: Watched) -> None:
    producer = watched.place.producer
    producer.conf.task_send_sent_event = True
    told = f"{MARK}Sent"
    sent = producer.send_task("aegis.generate", args=[told], queue="chat", argsrepr=told, kwargsrepr=told)
    found: Any = eventually(lambda: (answer := watched.get(f"/api/task/info/{sent.id}")).is_success and answer)
    assert found.json()["state"] == "PENDING"
    assert text_marks(found.text + watched.get(f"/task/{sent.id}").text + watched.get("/api/tasks").text) == set()


def test_nothing_can_be_changed_there_and_no_result_be_read(watched: Watched) -> None:
    task_id = next(iter(watched.get("/api/tasks").json()))
    for path in ("worker/shutdown/x", f"task/revoke/{task_id}", "task/async-apply/aegis.chat", "worker/pool/grow/x"):
        answer = httpx.post(f"{watched.url}/api/{path}", auth=LOGIN, timeout=30)
        assert (path, answer.status_code) == (path, 403)
    assert watched.get(f"/api/task/result/{task_id}").status_code == 503


def test_nobody_looks_without_the_login(watched: Watched) -> None:
    for path in ("/", "/tasks", "/broker", "/api/tasks", "/api/workers", "/tasks/datatable"):
        assert httpx.get(watched.url + path, timeout=30).status_code == 401
        assert httpx.get(watched.url + path, auth=("aegis", "planted"), timeout=30).status_code == 401


def test_its_own_log_is_of_our_form(watched: Watched) -> None:
    [log] = watched.place.logs.glob("flower.log")
    first, *lines = log.read_text().splitlines()
    assert first == f"Flower on {watched.url}"
    assert all("event" in json.loads(line) for line in lines)
    assert text_marks(log.read_text()) == set()


def run(command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    """What a Flower says that does not start."""
    given = environment.of(Settings(_env_file=None, redis_url=NOBODY)) | env
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=60)


OURS = [sys.executable, "-m", "aegis_workers.cli", "flower", "--port", "0"]
CELERYS = [sys.executable, "-m", "celery", "-A", "aegis_workers", "flower", "--port=0"]


@pytest.mark.parametrize("command", [[*OURS, "--host", "0.0.0.0"], [*CELERYS, "--address=0.0.0.0"], [*CELERYS, "--address="]])  # noqa: S104
def test_without_a_login_it_refuses_any_address_but_loopback(command: list[str]) -> None:
    told = run(command)
    assert told.returncode == 1
    assert "without a login Flower listens on loopback only" in told.stderr
    assert "AEGIS_FLOWER_AUTH" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize("command", [OURS, CELERYS])
def test_without_a_login_nothing_may_be_controlled(command: list[str]) -> None:
    told = run(command, AEGIS_FLOWER_CONTROL="true")
    assert (told.returncode, "without a login Flower only shows" in told.stderr) == (1, True)


@pytest.mark.parametrize("command", [OURS, CELERYS])
def test_a_login_of_another_form_is_refused_and_not_shown(command: list[str]) -> None:
    told = run(command, AEGIS_FLOWER_AUTH="planted")
    assert told.returncode == 1
    assert told.stderr.endswith("AEGIS_FLOWER_AUTH: write user:password, in ASCII\n")
    assert "Traceback" not in told.stderr
    assert "planted" not in told.stderr


@contextmanager
def celerys(folder: Path, settings: Settings, **env: str) -> Iterator[str]:
    """The address of a Flower that was started as Celery's users do."""
    given = environment.of(settings) | {"PYTHONUNBUFFERED": "1"} | env
    child = process.start("flower", CELERYS, log=folder / "flower.log", env=given)
    try:
        yield children.address(child)
    finally:
        process.stop([child], 5)


def test_celerys_own_command_asks_for_the_admin_token_where_no_login_is_set(settings: Settings, tmp_path: Path) -> None:
    token = secrets.token_urlsafe()
    with celerys(tmp_path, settings.model_copy(update={"admin_token": SecretStr(token)})) as url:
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/tasks", timeout=30).status_code == 401
        assert httpx.get(f"{url}/tasks", auth=(flower.USER, token), timeout=30).is_success
        assert httpx.post(f"{url}/api/worker/shutdown/x", auth=(flower.USER, token), timeout=30).status_code == 403
    assert token not in (tmp_path / "flower.log").read_text()


def test_a_setting_lets_those_with_the_login_control_tasks_and_they_may_ask_by_any_name(
    settings: Settings, tmp_path: Path
) -> None:
    chosen = {"flower_auth": SecretStr(":".join(LOGIN)), "flower_control": True}
    with celerys(tmp_path, settings.model_copy(update=chosen)) as url:
        assert httpx.post(f"{url}/api/task/revoke/x", timeout=30).status_code == 401
        assert httpx.post(f"{url}/api/task/revoke/x", auth=LOGIN, timeout=30).is_success
        assert httpx.get(f"{url}/tasks", auth=LOGIN, headers={"Host": "flower.example"}, timeout=30).is_success


def test_without_a_login_a_page_of_another_site_may_not_ask(settings: Settings, tmp_path: Path) -> None:
    with celerys(tmp_path, settings) as url:
        assert httpx.get(f"{url}/tasks", timeout=30).is_success
        assert httpx.get(f"{url}/tasks", headers={"Host": "rebound.example"}, timeout=30).status_code == 403
        assert httpx.get(f"{url}/api/tasks", timeout=30).status_code == 401


OPTIONS = """
import json, sys
from aegis_workers.celery import app
from flower import command
from tornado.options import options

class Looked(Exception):
    pass

def look(*_, **made):
    names = ("address", "read_only", "max_tasks", "max_workers", "purge_offline_workers", "task_runtime_metric_buckets")
    print(json.dumps({name: getattr(options, name) for name in names} | {"cookie_secret": made["cookie_secret"]}))
    raise SystemExit(0)

command.Flower = look
app.start(["flower"])
"""


def options(**env: str) -> dict[str, Any]:
    told = run([sys.executable, "-c", OPTIONS], **env)
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def test_its_memory_is_bounded_its_buckets_reach_beyond_a_call_and_its_cookie_secret_stays() -> None:
    found = options(AEGIS_FLOWER_AUTH="a:b")
    assert found["cookie_secret"] == options(AEGIS_FLOWER_AUTH="a:b")["cookie_secret"]
    assert found["cookie_secret"] != options(AEGIS_FLOWER_AUTH="a:c", FLOWER_MAX_TASKS="7")["cookie_secret"]
    assert (found["address"], found["read_only"]) == ("127.0.0.1", True)
    assert found["max_tasks"] <= 10_000
    assert found["max_workers"] <= 1_000
    assert found["purge_offline_workers"] > 0
    assert max(filter(math.isfinite, found["task_runtime_metric_buckets"])) > Settings(_env_file=None).call_timeout_s


def test_flowers_own_variables_still_count() -> None:
    assert options(FLOWER_MAX_TASKS="7")["max_tasks"] == 7


TEXTS = st.text(st.sampled_from("Quil \n'({"), min_size=1).map(lambda text: f"{MARK}{text}")


@given(
    kind=st.sampled_from(("task-sent", "task-received", "task-succeeded", "task-failed", "task-of-anybody")),
    texts=st.dictionaries(st.sampled_from(("args", "kwargs", "result", "traceback", "shadow", "other")), TEXTS),
)
def test_an_event_is_shown_without_what_anybody_wrote(kind: str, texts: Mapping[str, str]) -> None:
    event: dict[str, Any] = {"type": kind, "uuid": "t", "hostname": "h", "timestamp": 1.0, "name": "aegis.chat"}
    shown = flower.without_text(event | dict(texts))
    assert text_marks(repr(shown)) == set()
    assert event.items() <= shown.items()


@pytest.mark.parametrize(
    ("said", "shown"),
    [("InvalidInput", "InvalidInput"), (f"ValueError('{MARK}')", "ValueError"), (f"{MARK} text", "-"), (f"<{MARK}>", "-")],
)
def test_an_exception_in_an_event_is_shown_by_its_class_alone(said: str, shown: str) -> None:
    assert flower.without_text({"type": "task-failed", "exception": said})["exception"] == shown


def test_what_workers_say_of_themselves_is_shown_as_it_is() -> None:
    event = {"type": "worker-heartbeat", "hostname": "chat@here", "active": 3, "loadavg": [1, 2, 3]}
    assert flower.without_text(event) == event
    assert Engine.VLLM in flower.without_text({"type": "task-succeeded", "result": "ok engine=vllm 0.84 s"})["result"]
