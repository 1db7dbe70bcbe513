"""Chat as a stream: the reader is another process, which may leave, die or be slow."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from installation import Installation, eventually, installed

from aegis_workers.local import environment
from aegis_workers.routing import Engine
from aegis_workers.state import keys

QUESTION = "Tell me about rivers. They flow from the mountains to the sea, and some of them are long."
READER = f"""
import sys
from aegis_workers import chat_stream
pieces = chat_stream([{{"role": "user", "content": {QUESTION!r}}}])
for number, piece in enumerate(pieces):
    print(repr(piece), flush=True)
    if number == int(sys.argv[1]):
        pieces.close()
        print("closed", flush=True)
        sys.stdin.read()
print("ended", flush=True)
"""
NEVER = "-1"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Installation]:
    with installed(tmp_path, "chat", ollama=("--tokens-per-s", "20"), llm_engine_mode="ollama", vllm_model=None) as place:
        yield place


@pytest.fixture
def readers() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for reader in started:
        reader.kill()
        reader.communicate()


def read(place: Installation, readers: list[subprocess.Popen[str]], close_at: str = NEVER) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", READER, close_at]
    env = environment.of(place.settings)
    pipe = subprocess.PIPE
    readers.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env, cwd=place.logs))
    return readers[-1]


def first_line(reader: subprocess.Popen[str]) -> str:
    assert reader.stdout is not None
    return reader.stdout.readline()


def test_the_pieces_come_while_the_call_runs_and_make_the_whole_answer(
    place: Installation, readers: list[subprocess.Popen[str]]
) -> None:
    reader = read(place, readers)
    assert first_line(reader)
    assert place.in_flight(Engine.OLLAMA) == 1

    output, errors = reader.communicate(timeout=20)

    assert errors == ""
    pieces = output.splitlines()
    assert len(pieces) > 5
    assert pieces[-1] == "ended"


def test_closing_the_generator_closes_the_call_at_the_engine(place: Installation, readers: list[subprocess.Popen[str]]) -> None:
    reader = read(place, readers, close_at="1")
    eventually(lambda: place.stats(Engine.OLLAMA)["aborted"] == 1)
    assert place.in_flight(Engine.OLLAMA) == 0
    assert reader.poll() is None  # it closed the stream and lives on


def test_the_death_of_the_reader_closes_the_call_at_the_engine(place: Installation, readers: list[subprocess.Popen[str]]) -> None:
    place.behave(Engine.OLLAMA, slow_s=60)
    reader = read(place, readers)
    eventually(lambda: place.in_flight(Engine.OLLAMA) == 1)

    reader.kill()

    # The reader's mark in Redis outlives it by at most its TTL.
    eventually(lambda: place.stats(Engine.OLLAMA)["aborted"] == 1)
    assert place.in_flight(Engine.OLLAMA) == 0


def test_a_stream_that_breaks_off_tells_its_reader_and_is_not_begun_again(
    place: Installation, readers: list[subprocess.Popen[str]]
) -> None:
    place.behave(Engine.OLLAMA, drop_after_chunks=3)
    _, errors = read(place, readers).communicate(timeout=20)
    assert "StreamInterrupted: the answer broke off" in errors
    assert place.stats(Engine.OLLAMA)["requests"] == 1


def test_a_stream_that_takes_too_long_is_broken_off_and_not_begun_again(
    tmp_path: Path, readers: list[subprocess.Popen[str]]
) -> None:
    slow = ("--tokens-per-s", "10")
    with installed(tmp_path, "chat", ollama=slow, llm_engine_mode="ollama", vllm_model=None, call_timeout_s=1) as place:
        output, errors = read(place, readers).communicate(timeout=20)
        assert "StreamInterrupted" in errors
        assert output.count("'said'") == 1
        assert place.stats(Engine.OLLAMA)["requests"] == 1


def test_a_stream_whose_worker_stops_ends_as_interrupted(place: Installation, readers: list[subprocess.Popen[str]]) -> None:
    reader = read(place, readers)
    assert first_line(reader)
    place.behave(Engine.OLLAMA, hang=True)
    (worker,) = place.workers

    worker.popen.send_signal(signal.SIGTERM)
    _, errors = reader.communicate(timeout=20)

    assert "StreamInterrupted" in errors


def test_a_stream_stopped_before_its_first_piece_is_answered_whole_by_the_next_worker(
    place: Installation, readers: list[subprocess.Popen[str]]
) -> None:
    place.behave(Engine.OLLAMA, hang=True)
    reader = read(place, readers)
    eventually(lambda: place.in_flight(Engine.OLLAMA) == 1)
    (worker,) = place.workers
    worker.popen.send_signal(signal.SIGTERM)
    assert worker.popen.wait(15) == 0
    place.behave(Engine.OLLAMA)

    place.start_workers("chat")
    output, errors = reader.communicate(timeout=20)

    assert errors == ""
    assert output.endswith("ended\n")


def test_what_a_stream_leaves_in_redis_expires(place: Installation, readers: list[subprocess.Popen[str]]) -> None:
    read(place, readers).communicate(timeout=20)
    left = list(place.redis.scan_iter("aegis:stream:*"))
    assert left
    assert all(0 < place.redis.ttl(key) <= 120 for key in left)
    assert keys.MODE not in left
