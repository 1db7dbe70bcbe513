"""Calls that their producers revoke: queued, waiting for a slot, at an engine, and at an end."""

import base64
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult
from installation import Installation, eventually, installed

from aegis_workers.errors import RedisUnavailable
from aegis_workers.local import environment
from aegis_workers.routing import Engine
from aegis_workers.state import cancels, keys
from aegis_workers.worker.request import QuietApp

OLLAMA = Engine.OLLAMA
SLOTS = 2
QUESTION = [{"role": "user", "content": "Hello there."}]
ITEMS = [{"custom_id": "a", "text": "Ada Stone lives in Dover."}, {"custom_id": "b", "text": "Bo Hill lives in Rye."}]

# Each kind of task, and how many calls of it an engine has at once.
KINDS: dict[str, tuple[str, dict[str, Any], int]] = {
    "extract": ("aegis.extract", {"text": "Ada Stone lives in Dover."}, 1),
    "extract_batch": ("aegis.extract_batch", {"items": ITEMS}, len(ITEMS)),
    "chat": ("aegis.chat", {"messages": QUESTION}, 1),
    "chat stream": ("aegis.chat", {"messages": QUESTION, "stream": True}, 1),
}
QUEUES = ("extraction", "chat")
SENT = "test:sent"

READER = f"""
import sys
from aegis_workers import chat_stream
from aegis_workers.errors import CallCancelled
try:
    for piece in chat_stream({QUESTION!r}, task_id=sys.argv[1]):
        print("piece", flush=True)
except CallCancelled as error:
    print("cancelled", error, flush=True)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    speed = ("--tokens-per-s", "200")
    folder = tmp_path_factory.mktemp("revoking")
    with installed(
        folder, *QUEUES, ollama=speed, llm_engine_mode="ollama", vllm_model=None, ollama_limit=SLOTS, chat_deadline_s=60
    ) as place:
        yield place
        assert "Traceback" not in place.worker_logs()


@pytest.fixture
def place(running: Installation) -> Iterator[Installation]:
    """The installation, idle before the test and after it."""
    running.behave(OLLAMA)
    yield running
    running.behave(OLLAMA)
    running.producer.control.terminate(running.redis.lrange(SENT, 0, -1))
    eventually(lambda: running.in_flight(OLLAMA) == 0)
    eventually(lambda: messages(running, *QUEUES) == 0)


def messages(place: Installation, *queues: str) -> int:
    """Those that wait in the queues, and those that workers hold."""
    held = [key for key in place.redis.scan_iter("aegis:held:*") if place.redis.type(key) == "list"]
    return sum(int(place.redis.llen(key)) for key in (*queues, *held))


@pytest.fixture
def package(running: Installation) -> Iterator[QuietApp]:
    """A producer that has this package: its application is of the same class."""
    app = QuietApp("with-package", broker=running.server.url, backend=running.server.url, set_as_current=False)
    yield app
    app.close()


def send(place: Installation, kind: str, **more: Any) -> AsyncResult:
    name, arguments, _ = KINDS[kind]
    task_id = str(uuid.uuid4())
    if arguments.get("stream"):
        place.redis.set(keys.stream_reader(task_id), "1", ex=60)
    place.redis.lpush(SENT, task_id)
    return place.send(name, task_id=task_id, **arguments, **more)


def at_the_engine(place: Installation, kind: str) -> AsyncResult:
    """A call that hangs there."""
    place.behave(OLLAMA, hang=True)
    result = send(place, kind)
    eventually(lambda: place.in_flight(OLLAMA) == KINDS[kind][2])
    return result


def is_revoked(result: AsyncResult, reason: str) -> bool:
    with pytest.raises(TaskRevokedError, match=reason):
        result.get(timeout=20)
    return bool(result.state == "REVOKED")


@contextmanager
def events(place: Installation) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What workers say of tasks while the block runs; each call returns all of it so far."""
    heard: list[dict[str, Any]] = []
    with place.redis.pubsub() as listener:  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        listener.psubscribe("*celeryev/task.multi")
        assert listener.get_message(timeout=5)

        def so_far() -> list[dict[str, Any]]:
            for message in iter(lambda: listener.get_message(timeout=0.1), None):
                heard.extend(json.loads(base64.b64decode(json.loads(message["data"])["body"])))
            return heard

        yield so_far


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_at_the_engine_that_is_terminated_is_closed_there_and_ends_as_revoked(
    place: Installation, package: QuietApp, kind: str
) -> None:
    result = at_the_engine(place, kind)
    before = place.stats(OLLAMA)

    with events(place) as so_far:
        AsyncResult(result.id, app=package).revoke(terminate=True)

        assert is_revoked(result, "terminated")
        eventually(lambda: place.in_flight(OLLAMA) == 0)
        said = eventually(lambda: [event for event in so_far() if event["type"] == "task-revoked"])
    assert place.stats(OLLAMA)["aborted"] - before["aborted"] == KINDS[kind][2]
    assert [(event["uuid"], event["terminated"], event["expired"]) for event in said] == [(result.id, True, False)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_producer_that_has_only_celery_can_terminate_as_well(place: Installation, kind: str) -> None:
    result = at_the_engine(place, kind)
    result.revoke(terminate=True)
    assert is_revoked(result, "terminated")
    eventually(lambda: place.in_flight(OLLAMA) == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_closed_at_its_deadline_leaves_nothing_at_the_engine(place: Installation, kind: str) -> None:
    place.behave(OLLAMA, hang=True)
    before = place.stats(OLLAMA)["aborted"]
    result = send(place, kind, options={"deadline_s": 0.5})
    result.get(timeout=20, propagate=False)
    assert eventually(lambda: place.in_flight(OLLAMA) == 0)
    assert place.stats(OLLAMA)["aborted"] - before == KINDS[kind][2]


@pytest.mark.parametrize("producer", ["package", "celery"])
def test_a_plain_revoke_leaves_a_call_alone_that_an_engine_has(place: Installation, package: QuietApp, producer: str) -> None:
    place.behave(OLLAMA, slow_s=1)
    result = send(place, "chat")
    eventually(lambda: place.in_flight(OLLAMA) == 1)

    (AsyncResult(result.id, app=package) if producer == "package" else result).revoke()
    eventually(lambda: place.redis.exists(keys.cancelled(result.id)))

    assert result.get(timeout=20)["status"] == "ok"
    assert result.state == "SUCCESS"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("terminate", [False, True], ids=["revoke", "terminate"])
def test_a_call_that_waits_for_a_slot_ends_at_once(place: Installation, kind: str, *, terminate: bool) -> None:
    place.behave(OLLAMA, hang=True)
    for _ in range(SLOTS // KINDS[kind][2]):
        send(place, kind)
    eventually(lambda: place.in_flight(OLLAMA) == SLOTS)
    requests = place.stats(OLLAMA)["requests"]
    with events(place) as so_far:
        waiting = send(place, kind)
        eventually(lambda: [event for event in so_far() if event["type"] == "task-started" and event["uuid"] == waiting.id])

        waiting.revoke(terminate=terminate)

        assert is_revoked(waiting, "terminated" if terminate else "revoked")
    assert place.stats(OLLAMA)["requests"] == requests
    assert place.in_flight(OLLAMA) == SLOTS


def test_a_mark_that_is_set_by_hand_ends_the_call_too(place: Installation) -> None:
    result = at_the_engine(place, "chat")
    place.redis.set(keys.cancelled(result.id), "terminate", ex=60)
    assert is_revoked(result, "terminated")


def test_many_calls_are_terminated_by_one_command(place: Installation, package: QuietApp) -> None:
    place.behave(OLLAMA, hang=True)
    results = [send(place, "chat") for _ in range(20)]
    eventually(lambda: place.in_flight(OLLAMA) == SLOTS)
    package.control.terminate([result.id for result in results])
    assert all(is_revoked(result, "revoked|terminated") for result in results)


def test_a_revoke_after_the_end_changes_nothing(place: Installation, package: QuietApp) -> None:
    result = send(place, "chat")
    answer = result.get(timeout=20)
    package.control.terminate(result.id)
    assert send(place, "chat").get(timeout=20)["status"] == "ok"
    fresh = AsyncResult(result.id, app=place.producer)
    assert (fresh.state, fresh.get(timeout=1)) == ("SUCCESS", answer)


def test_an_unknown_id_leaves_nothing_but_a_mark_that_expires(place: Installation, package: QuietApp) -> None:
    package.control.revoke("nobody")
    assert place.redis.get(keys.cancelled("nobody")) == "revoke"
    assert 0 < int(place.redis.ttl(keys.cancelled("nobody"))) <= cancels.TTL_S
    assert AsyncResult("nobody", app=place.producer).state == "PENDING"


def test_celerys_command_line_revokes_too(place: Installation) -> None:
    result = at_the_engine(place, "chat")
    command = [sys.executable, "-m", "celery", "-A", "aegis_workers", "control", "revoke", result.id, "--json"]
    env = environment.of(place.settings)
    subprocess.run(command, env=env, cwd=place.logs, check=True, capture_output=True, timeout=20)
    assert place.redis.get(keys.cancelled(result.id)) == "revoke"
    result.revoke(terminate=True)
    assert is_revoked(result, "terminated")


@pytest.mark.parametrize("begun", [False, True], ids=["before its first piece", "in the middle"])
def test_the_reader_of_a_stream_learns_that_it_was_cancelled(place: Installation, package: QuietApp, *, begun: bool) -> None:
    place.behave(OLLAMA, **({"answer": "A long answer. " * 2000} if begun else {"hang": True}))
    task_id = str(uuid.uuid4())
    command = [sys.executable, "-c", READER, task_id]
    env = environment.of(place.settings)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=place.logs) as reader:
        eventually(lambda: place.in_flight(OLLAMA) == 1)
        assert reader.stdout is not None
        assert not begun or reader.stdout.readline() == "piece\n"

        package.control.terminate(task_id)

        *_, last = reader.communicate(timeout=20)[0].splitlines()
    assert last == "cancelled the task was terminated by its caller"
    eventually(lambda: place.in_flight(OLLAMA) == 0)


@pytest.fixture
def later(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("later"), llm_engine_mode="ollama", vllm_model=None) as place:
        yield place


def test_a_worker_that_starts_later_ends_what_was_revoked_while_it_was_queued(later: Installation) -> None:
    package = QuietApp("with-package", broker=later.server.url, backend=later.server.url, set_as_current=False)
    results = {kind: send(later, kind) for kind in KINDS}
    switch = later.send("aegis.set_engine_mode", mode="vllm")
    kept = later.chat()
    package.control.revoke([result.id for result in (*results.values(), switch)])

    later.start_workers(*QUEUES, "control")

    assert all(is_revoked(result, "revoked") for result in (*results.values(), switch))
    assert kept.get(timeout=20)["status"] == "ok"
    assert later.stats(OLLAMA)["requests"] == 1
    assert later.redis.get(keys.MODE) == "ollama"
    eventually(lambda: messages(later, *QUEUES, "control") == 0)


def test_what_a_worker_heard_from_plain_celery_holds_for_one_that_starts_later(later: Installation) -> None:
    later.start_workers("extraction")
    assert eventually(lambda: later.producer.control.ping(timeout=0.5))  # it hears broadcasts
    result = later.chat()
    result.revoke()
    eventually(lambda: later.redis.exists(keys.cancelled(result.id)))
    later.start_workers("chat")
    assert is_revoked(result, "revoked")
    assert later.stats(OLLAMA)["requests"] == 0


def test_without_redis_a_revoke_says_so() -> None:
    app = QuietApp("with-package", broker="redis://127.0.0.1:1/0", backend="disabled", set_as_current=False)
    with pytest.raises(RedisUnavailable, match=r"127\.0\.0\.1:1"):
        app.control.revoke("any")
