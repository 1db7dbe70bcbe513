"""A worker that is told to stop in the middle of its calls."""

import signal
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGQUIT, SIGTERM

import broken_workers
import pytest
from installation import Installation, eventually, installed

from aegis_workers.local.process import Process
from aegis_workers.routing import Engine
from aegis_workers.state import keys

LONG_GRACE_S = 100.0

# Quits while it starts a thread for the third task, with the locks of its pool in its hands.
INTERRUPTED = """
import signal
from concurrent.futures import ThreadPoolExecutor

start_thread = ThreadPoolExecutor._adjust_thread_count

def interrupted(pool):
    start_thread(pool)
    if len(pool._threads) == 3:
        signal.raise_signal(signal.SIGQUIT)

ThreadPoolExecutor._adjust_thread_count = interrupted
"""


def test_calls_that_end_within_the_grace_are_finished(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", ollama=("--call-seconds", "1.5"), llm_engine_mode="ollama", shutdown_grace_s=10) as place:
        results = [place.chat() for _ in range(4)]
        eventually(lambda: place.in_flight(Engine.OLLAMA) == 4)
        (worker,) = place.workers

        worker.popen.send_signal(signal.SIGTERM)

        assert worker.popen.wait(15) == 0
        assert [result.get(timeout=1)["status"] for result in results] == ["ok"] * 4
        assert place.stats(Engine.OLLAMA)["aborted"] == 0
        assert place.redis.llen("chat") == 0


@pytest.mark.parametrize("queue", ["chat", "extraction"])
def test_calls_that_outlast_the_grace_are_closed_and_done_by_the_next_worker(tmp_path: Path, queue: str) -> None:
    with installed(tmp_path, queue, ollama=("--slots", "4"), llm_engine_mode="ollama", shutdown_grace_s=1) as place:
        place.behave(Engine.OLLAMA, hang=True)
        # As many are in flight as may be, the rest waits for a slot: one of four is kept for chats.
        results = [place.chat() if queue == "chat" else place.send("aegis.extract", text=f"Text {n}.") for n in range(8)]
        eventually(lambda: place.in_flight(Engine.OLLAMA) == (4 if queue == "chat" else 3))
        (worker,) = place.workers

        worker.popen.send_signal(signal.SIGTERM)

        assert worker.popen.wait(15) == 0
        assert eventually(lambda: place.in_flight(Engine.OLLAMA) == 0)
        assert place.redis.llen(queue) == 8
        assert list(place.redis.scan_iter("aegis:held:*", _type="list")) == []
        place.behave(Engine.OLLAMA)
        place.start_workers(queue)
        assert {result.get(timeout=20)["status"] for result in results} <= {"ok", "empty"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation to which each test brings its workers, and in which no call ends by itself."""
    folder = tmp_path_factory.mktemp("signals")
    with installed(folder, ollama_limit=6, llm_engine_mode="ollama", vllm_model=None, shutdown_grace_s=LONG_GRACE_S) as place:
        place.behave(Engine.OLLAMA, hang=True)
        yield place
        assert "Traceback" not in place.worker_logs()


# Celery ends with 1 after a first Ctrl-C, and with 0 after a cold shutdown: after two of them it depends on which it sees first.
@pytest.mark.parametrize(
    ("signals", "queues", "codes"),
    [
        ((SIGTERM, SIGTERM), ("extraction", "chat"), {0}),
        ((SIGINT, SIGINT), ("chat",), {0, 1}),
        ((SIGTERM, SIGQUIT), ("chat",), {0}),
        ((SIGQUIT,), ("chat",), {0}),
    ],
    ids=["SIGTERM twice", "Ctrl-C twice", "SIGTERM, SIGQUIT", "SIGQUIT"],
)
def test_a_second_signal_puts_back_at_once_what_an_engine_has(
    shared: Installation, signals: Sequence[signal.Signals], queues: Sequence[str], codes: set[int]
) -> None:
    workers = shared.start_workers(*queues)
    aborted = shared.stats(Engine.OLLAMA)["aborted"]
    calls = sum(enqueue_each_kind(shared, queue) for queue in queues)
    eventually(lambda: shared.in_flight(Engine.OLLAMA) == calls)

    for number, sent in enumerate(signals):
        eventually(lambda: number == 0 or all(map(was_told, workers)))  # noqa: B023 - called at once
        for worker in workers:
            assert worker.is_alive()
            worker.popen.send_signal(sent)

    assert {worker.popen.wait(10) for worker in workers} <= codes
    assert eventually(lambda: shared.in_flight(Engine.OLLAMA) == 0)
    assert shared.stats(Engine.OLLAMA)["aborted"] - aborted == calls
    assert list(shared.redis.scan_iter("aegis:worker:*")) == []
    assert {shared.redis.llen(queue) for queue in queues} == {2}
    shared.redis.delete(*queues)


def enqueue_each_kind(place: Installation, queue: str) -> int:
    """An extraction and a batch, or a chat and a streamed one that somebody reads; returns the calls that they are."""
    if queue == "extraction":
        place.send("aegis.extract", text="A text.")
        place.send("aegis.extract_batch", items=[{"custom_id": name, "text": f"Text {name}."} for name in "ab"])
        return 3
    streamed = str(uuid.uuid4())
    place.redis.set(keys.stream_reader(streamed), "1", ex=60)
    place.chat()
    place.chat(task_id=streamed, stream=True)
    return 2


def was_told(worker: Process) -> bool:
    return "shutdown (MainProcess)" in worker.log.read_text()


def test_a_stopped_worker_is_no_longer_listed(tmp_path: Path) -> None:
    with installed(tmp_path, "chat") as place:
        (worker,) = place.workers
        worker.popen.send_signal(signal.SIGTERM)
        assert worker.popen.wait(15) == 0
        assert list(place.redis.scan_iter("aegis:worker:*")) == []
        assert "Traceback" not in place.worker_logs()


def test_a_worker_stops_cleanly_although_redis_is_away(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", llm_engine_mode="ollama", vllm_model=None, shutdown_grace_s=LONG_GRACE_S) as place:
        place.behave(Engine.OLLAMA, hang=True)
        place.chat()
        eventually(lambda: place.in_flight(Engine.OLLAMA) == 1)
        (worker,) = place.workers
        assert place.server.process is not None
        place.server.process.popen.kill()

        worker.popen.send_signal(SIGTERM)
        eventually(lambda: was_told(worker))
        worker.popen.send_signal(SIGTERM)

        assert worker.popen.wait(15) == 0
        assert eventually(lambda: place.in_flight(Engine.OLLAMA) == 0)
        assert "Traceback" not in place.worker_logs()


@pytest.mark.parametrize("signals", [(SIGTERM,), (SIGTERM, SIGTERM), (SIGQUIT,)], ids=["SIGTERM", "SIGTERM twice", "SIGQUIT"])
def test_a_worker_ends_although_redis_is_frozen_and_leaves_its_messages_to_the_next(
    tmp_path: Path, signals: Sequence[signal.Signals]
) -> None:
    grace_s, health_dir = 2.0 if signals == (SIGTERM,) else LONG_GRACE_S, tmp_path / "health"
    with installed(
        tmp_path, "chat", llm_engine_mode="ollama", vllm_model=None, shutdown_grace_s=grace_s, health_dir=health_dir
    ) as place:
        place.behave(Engine.OLLAMA, hang=True)
        results = [place.chat() for _ in range(8)]
        eventually(lambda: place.in_flight(Engine.OLLAMA) == 4 and held(place) == 8)
        (worker,) = place.workers
        with frozen_redis(place):
            for number, sent in enumerate(signals):
                eventually(lambda: number == 0 or was_told(worker))  # noqa: B023 - called at once
                worker.popen.send_signal(sent)

            assert worker.popen.wait(15) == 0
            assert eventually(lambda: place.in_flight(Engine.OLLAMA) == 0)
            assert list(health_dir.iterdir()) == []

        # What was being put back when the worker ended may have reached Redis all the same.
        assert held(place) + place.redis.llen("chat") == 8
        assert "Traceback" not in place.worker_logs()
        place.behave(Engine.OLLAMA)
        place.start_workers("chat")
        assert [result.get(timeout=30)["status"] for result in results] == ["ok"] * 8


def test_a_worker_ends_although_the_signal_comes_while_it_hands_a_task_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with installed(tmp_path, llm_engine_mode="ollama", vllm_model=None, shutdown_grace_s=0) as place:
        place.behave(Engine.OLLAMA, hang=True)
        options = broken_workers.include(INTERRUPTED, tmp_path / "modules", monkeypatch)
        (worker,) = place.start_workers("chat", options=options)
        for _ in range(3):
            place.chat()

        assert worker.popen.wait(15) == 0
        assert (held(place), place.redis.llen("chat")) == (0, 3)
        assert place.in_flight(Engine.OLLAMA) == 0


def test_a_worker_that_has_nothing_to_do_ends_although_redis_is_frozen(tmp_path: Path) -> None:
    with installed(tmp_path, "chat") as place:
        (worker,) = place.workers
        with frozen_redis(place):
            worker.popen.send_signal(SIGTERM)
            assert worker.popen.wait(15) == 0


def held(place: Installation) -> int:
    """Messages that any worker holds."""
    return sum(place.redis.llen(name) for name in place.redis.scan_iter("aegis:held:*", _type="list"))


@contextmanager
def frozen_redis(place: Installation) -> Iterator[None]:
    assert place.server.process is not None
    server = place.server.process.popen
    server.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.send_signal(signal.SIGCONT)
