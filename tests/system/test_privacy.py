"""What a caller or an engine wrote is in no log, no event, no remote control reply and no page of Flower, whoever enqueued it."""

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import malformed
import pytest
from celery.result import AsyncResult
from celery.states import READY_STATES
from installation import Installation, eventually, installed
from pydantic import SecretStr

from aegis_workers.local import children, process
from aegis_workers.routing import Engine
from aegis_workers.state import keys
from aegis_workers.worker import request

MARK = "Quillfeather"
API_KEY = "planted-api-key"
FLOWER_LOGIN = ("aegis", "planted-flower-password")

PACKAGE_PRODUCER = f"""
from aegis_workers import app, chat, extract, generate
results = [
    extract.delay("{MARK}FromPackage met Bo Hill.", options={{"instructions": "{MARK}Instructions"}}),
    chat.apply_async(([{{"role": "user", "content": "{MARK}Chat"}}],), shadow="{MARK}Shadow"),
    app.send_task("aegis.generate", ["{MARK}ByName"], queue="chat", argsrepr="{MARK}Args"),
    generate.map(["{MARK}Mapped"]).apply_async(queue="chat"),
]
print(*(result.id for result in results))
"""


def marks(text: str) -> set[str]:
    """What of the planted is in `text`, as it is or in the base64 in which messages travel."""
    found = set(re.findall(rf"{MARK}\w*", text))
    for shift in range(3):
        encoded = base64.b64encode(b" " * shift + MARK.encode()).decode()
        found |= {f"base64 of {MARK}"} & ({f"base64 of {MARK}"} if encoded[4:-4] in text else set())
    return found


@dataclass
class Evidence:
    """What can be seen from outside of tasks that hold the mark in every place where text can be."""

    place: Installation
    flower: str
    events: list[dict[str, Any]] = field(default_factory=list)
    results: list[AsyncResult] = field(default_factory=list)
    inspected: str = ""

    def pages(self, *paths: str) -> str:
        with httpx.Client(base_url=self.flower, auth=FLOWER_LOGIN, timeout=20) as client:
            answers = ((path, client.get(path)) for path in paths)
            return "\n".join(f"{path} {answer.status_code} {answer.text}" for path, answer in answers)

    def shown_by_flower(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.pages("/api/tasks").partition("200 ")[2])
        return found


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    """From workers at DEBUG, which log all that they would at INFO and more."""
    folder = tmp_path_factory.mktemp("privacy")
    secrets: dict[str, Any] = {"vllm_api_key": SecretStr(API_KEY), "flower_auth": SecretStr(":".join(FLOWER_LOGIN))}
    with installed(folder, await_engines=False, llm_engine_mode="ollama", **secrets) as place:
        flower = children.start_flower(0, place.settings, place.logs)
        try:
            place.start_workers("extraction", "chat", "control", options=("--loglevel", "debug"))
            place.await_engines(*Engine)
            seen = Evidence(place=place, flower=children.address(flower))
            with listening(seen):
                gather(seen)
            yield seen
        finally:
            process.stop([flower], 5)


@contextmanager
def listening(seen: Evidence) -> Iterator[None]:
    with seen.place.producer.connection_for_read() as connection:
        receiver = seen.place.producer.events.Receiver(connection, handlers={"*": seen.events.append})
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None})
        thread.start()
        try:
            # Nothing is planted before both listeners hear: a worker says something every two seconds.
            eventually(lambda: seen.events)
            first = seen.place.chat()
            eventually(lambda: first.id in seen.shown_by_flower() or not first.ready())
            yield
        finally:
            receiver.should_stop = True
            thread.join()


def gather(seen: Evidence) -> None:
    place, results = seen.place, seen.results
    results += ready(ordinary(place))
    ready([AsyncResult(malformed.send(place, flaw, MARK), app=place.producer) for flaw in malformed.KINDS.values()])
    for flaw in malformed.UNANSWERED.values():
        malformed.send(place, flaw, MARK)
    place.behave(Engine.OLLAMA, answer=f"{MARK}Answer")
    results += ready([place.chat(), place.send("aegis.extract", text="Ada met Bo.")])
    place.behave(Engine.OLLAMA, error_status=400, error_message=f"{MARK}EngineWords")
    results += ready([place.chat(), place.send("aegis.extract", text="Ada met Bo.")])
    place.behave(Engine.OLLAMA, hang=True)
    results.append(running := place.chat(f"{MARK}Running", options={"deadline_s": 2}))
    eventually(lambda: place.in_flight(Engine.OLLAMA) == 1)
    seen.inspected = inspected(place, running.id)
    ready([running])
    place.behave(Engine.OLLAMA)
    ids = {result.id for result in results}
    eventually(lambda: ids <= {event["uuid"] for event in seen.events if event["type"] in {"task-succeeded", "task-failed"}})
    eventually(lambda: ids <= {task_id for task_id, task in seen.shown_by_flower().items() if task["state"] in READY_STATES})


def ready(results: Sequence[AsyncResult]) -> Sequence[AsyncResult]:
    for result in results:
        result.get(timeout=20, propagate=False)
    return results


def ordinary(place: Installation) -> list[AsyncResult]:
    """Tasks with the mark wherever a caller can write something, from this package and from a bare producer."""
    schema = {"type": "object", "properties": {f"{MARK}Property": {"type": "string", "description": f"{MARK}Description"}}}
    item = {"custom_id": f"{MARK}Id", "text": f"{MARK}BatchText", "metadata": {"note": f"{MARK}Metadata"}}
    later = {"countdown": 300, "argsrepr": f"{MARK}Args", "kwargsrepr": f"{MARK}Kwargs", "shadow": f"{MARK}Later"}
    place.producer.send_task("aegis.generate", args=[f"{MARK}Later"], queue="chat", **later)
    names = later | {"countdown": 0}
    told = place.python(PACKAGE_PRODUCER)
    assert told.returncode == 0, told.stderr
    return [
        place.chat(f"{MARK}Message"),
        place.chat(f"{MARK}Streamed", stream=True),
        place.send("aegis.generate", prompt=f"{MARK}Prompt"),
        place.send("aegis.generate", prompt="", options={f"{MARK}Option": 1}),
        place.send("aegis.extract", text=f"{MARK}Text met Bo Hill.", schema=schema, options={"instructions": f"{MARK}Rules"}),
        place.send("aegis.extract", text=f"{MARK}\0Nul"),
        place.send("aegis.extract", text="Ada.", schema={"type": f"{MARK}Type"}),
        place.send("aegis.extract_batch", items=[item, {"custom_id": "b", "text": f"{MARK}\0Nul"}]),
        place.send("aegis.extract_batch", items=[{f"{MARK}Field": 1}]),
        place.send("aegis.set_engine_mode", mode=f"{MARK}Mode"),
        place.producer.send_task("aegis.generate", args=[f"{MARK}Bare"], queue="chat", **names),
        place.producer.send_task("aegis.generate", kwargs={f"{MARK}Name": 1}, queue="chat", **names),
        *(AsyncResult(task_id, app=place.producer) for task_id in told.stdout.split()),
    ]


def inspected(place: Installation, task_id: str) -> str:
    inspect = place.producer.control.inspect(limit=3)
    active, scheduled = inspect.active(), inspect.scheduled()
    assert any(task["id"] == task_id for tasks in active.values() for task in tasks)
    assert any(scheduled.values())
    return json.dumps([active, scheduled, inspect.reserved(), inspect.query_task(task_id), inspect.stats(), inspect.conf()])


def test_no_worker_log_holds_what_a_caller_or_an_engine_wrote(evidence: Evidence) -> None:
    logs = evidence.place.worker_logs()
    assert "call.finished" in logs
    assert '"level": "debug"' in logs
    assert marks(logs) == set()


def test_no_event_holds_it(evidence: Evidence) -> None:
    assert marks(json.dumps(evidence.events, default=str)) == set()


def test_no_reply_of_remote_control_holds_it(evidence: Evidence) -> None:
    assert marks(evidence.inspected) == set()


def test_no_page_and_no_answer_of_flower_holds_it(evidence: Evidence) -> None:
    ids = [result.id for result in evidence.results]
    [worker, *_] = {event["hostname"] for event in evidence.events if event["type"] == "worker-heartbeat"}
    table = "/tasks/datatable?draw=1&start=0&length=500&order[0][column]=0&order[0][dir]=asc&columns[0][data]=name"
    shown = evidence.pages("/workers", f"/worker/{worker}", "/tasks", table, "/broker", "/metrics")
    shown += evidence.pages("/api/tasks", "/api/workers?refresh=1", "/api/task/types", "/api/queues/length")
    shown += evidence.pages(*(f"/{page}/{task_id}" for task_id in ids for page in ("task", "api/task/info", "api/task/result")))
    assert ids[0] in shown
    assert marks(shown) == set()


def test_flower_gives_no_results(evidence: Evidence) -> None:
    assert evidence.pages(f"/api/task/result/{evidence.results[0].id}").split()[1] == "503"


def test_flower_shows_how_a_task_ended_and_where(evidence: Evidence) -> None:
    chat = evidence.shown_by_flower()[evidence.results[0].id]
    assert re.fullmatch(r"ok engine=ollama mode=ollama attempts=1 \d+\.\d\d s", chat["result"])
    failed = {task["exception"] for task in evidence.shown_by_flower().values() if task["state"] == "FAILURE"}
    assert {"InvalidInput", "CallFailed", "DeadlineExceeded", "CallCancelled"} <= failed


def test_no_key_of_ours_but_a_stream_and_a_held_message_holds_it(evidence: Evidence) -> None:
    client = evidence.place.redis
    # What a worker holds is messages, as they lie in the queues.
    holders = ("aegis:stream:", keys.held(""))
    names = [name for name in client.scan_iter("aegis:*") if not name.startswith(holders)]
    assert names
    read: dict[str, Callable[[str], Any]] = {
        "hash": client.hgetall,
        "stream": client.xrange,
        "string": client.get,
        "zset": lambda name: client.zrange(name, 0, -1),
    }
    values = [read[str(client.type(name))](name) for name in names]
    assert marks(json.dumps([names, values])) == set()


def test_a_task_is_logged_by_its_own_name_whatever_its_producer_calls_it(evidence: Evidence) -> None:
    received = re.findall(r"Task ([\w.]+)\[[\w-]+\] (?:received|succeeded in)", evidence.place.worker_logs())
    ours = {"aegis.chat", "aegis.generate", "aegis.extract", "aegis.extract_batch", "aegis.set_engine_mode"}
    assert set(received) == ours | {"celery.map"}


def test_no_log_and_no_command_line_holds_a_secret(evidence: Evidence) -> None:
    place = evidence.place
    logs = "".join(file.read_text(errors="replace") for file in place.logs.rglob("*.log"))
    commands = "".join(file.read_text(errors="replace") for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists())
    redis_password = urlsplit(place.settings.redis_url).password
    assert redis_password
    assert "celery" in commands
    pages = evidence.pages("/workers", "/broker", "/api/workers?refresh=1")
    for secret in (API_KEY, FLOWER_LOGIN[1], redis_password):
        assert secret not in logs
        assert secret not in commands
        assert secret not in evidence.inspected
        assert secret not in json.dumps(evidence.events, default=str)
        assert secret not in pages


@pytest.mark.parametrize(
    ("representation", "shown"),
    [
        ("InvalidInput('text')", "InvalidInput"),
        ("1 validation error for X", "-"),
        ("<Odd: text>", "-"),
        ("text (", "-"),
        ("", "-"),
    ],
)
def test_an_exception_is_shown_by_its_class_alone(representation: str, shown: str) -> None:
    assert request.class_name(representation) == shown
