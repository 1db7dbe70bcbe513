"""The commands of an operator on a whole installation."""

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from installation import Installation, eventually, installed

from aegis_workers.local import environment
from aegis_workers.routing import Engine


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    slow = ("--tokens-per-s", "40")
    with installed(tmp_path_factory.mktemp("commands"), "extraction", "chat", ollama=slow, llm_engine_mode="auto") as place:
        yield place


def snapshot(place: Installation) -> dict[str, Any]:
    told = place.cli("engines", "--json")
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def on_a_terminal(place: Installation, *arguments: str, columns: int) -> str:
    """What a command writes on a terminal of that width."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "aegis_workers.cli", *arguments]
    env = {**environment.of(place.settings), "TERM": "xterm"}
    with subprocess.Popen(command, env=env, stdout=theirs, stderr=theirs, stdin=theirs, cwd=place.logs) as running:
        os.close(theirs)
        said = b""
        while piece := _read(ours):
            said += piece
        running.wait(10)
    os.close(ours)
    return said.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux says that nobody writes there any more
        return b""


@pytest.fixture
def away(place: Installation) -> Iterator[None]:
    """Both engines say that they are not well."""
    for engine in Engine:
        place.behave(engine, health_down=True)
    eventually(lambda: {engine["state"] for engine in snapshot(place)["engines"].values()} == {"unavailable"})
    yield
    for engine in Engine:
        place.behave(engine)
    eventually(lambda: {engine["state"] for engine in snapshot(place)["engines"].values()} == {"ready"})


def test_engines_shows_an_installation_at_work(place: Installation) -> None:
    found = snapshot(place)
    assert (found["mode"], found["problem"], found["waiting"]) == ("auto", None, {})
    assert {name: (engine["state"], engine["limit"]) for name, engine in found["engines"].items()} == {
        "vllm": ("ready", 256),
        "ollama": ("ready", 4),
    }
    assert not any(engine["stale"] for engine in found["engines"].values())
    assert sorted(worker["queue"] for worker in found["workers"]) == ["chat", "extraction"]


@pytest.mark.usefixtures("away")
def test_engines_shows_how_many_calls_wait_and_for_what(place: Installation) -> None:
    results = [*(place.send("aegis.extract", text=f"Text {number}.") for number in range(3)), place.chat()]

    waiting: Mapping[str, int] = eventually(lambda: len(found := snapshot(place)["waiting"]) == 2 and found)

    assert waiting == {
        "waits for vLLM: not healthy (HTTP 503); waits for Ollama: not healthy (HTTP 503)": 3,
        "waits for Ollama: not healthy (HTTP 503); waits for vLLM: not healthy (HTTP 503)": 1,
    }
    told = place.cli("engines").stdout
    assert "Ollama  not healthy (HTTP 503)\n" in told
    assert "    3  waits for vLLM: not healthy (HTTP 503)" in told
    assert "\x1b" not in told
    place.behave(Engine.OLLAMA)
    assert {result.get(timeout=20)["engine"] for result in results} == {"ollama"}


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.usefixtures("away")
def test_listings_fit_the_terminal(place: Installation, columns: int) -> None:
    for command in ("engines", "doctor"):
        told = on_a_terminal(place, command, columns=columns)
        lines = [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in told.splitlines()]
        assert "not healthy" in told
        assert max(map(len, lines)) <= columns


def test_doctor_finds_nothing_missing_and_ends_with_0(place: Installation) -> None:
    told = place.cli("doctor", "--json")
    assert told.returncode == 0, told.stdout
    findings = json.loads(told.stdout)["findings"]
    levels = {finding["what"]: finding["level"] for finding in findings}
    redis, engines = ("Redis version", "Redis eviction", "Redis persistence"), ("vLLM", "Ollama")
    assert levels == dict.fromkeys((*redis, *engines, "Memory", *(f"{engine} driver" for engine in engines)), "ok")
    [vllm] = [finding["detail"] for finding in findings if finding["what"] == "vLLM"]
    assert vllm == f"{place.settings.urls(Engine.VLLM)[0]} ready: version 0.32.0, model sim loaded"


def test_doctor_says_whether_ollama_has_loaded_the_model(tmp_path: Path) -> None:
    """Before its first use it has not, and is ready all the same."""
    with installed(tmp_path) as idle:
        url = idle.settings.urls(Engine.OLLAMA)[0]
        assert f"{url} ready: version 0.33.0, model sim not loaded: first use loads it\n" in idle.cli("doctor").stdout
        body = json.dumps({"model": "sim", "messages": []}).encode()
        urllib.request.urlopen(f"{url}/api/chat", data=body, timeout=10).close()  # noqa: S310 - a simulator on loopback
        assert f"{url} ready: version 0.33.0, model sim loaded\n" in idle.cli("doctor").stdout


def test_a_switch_by_the_command_line_is_followed(place: Installation) -> None:
    assert place.cli("mode", "set", "vllm").stdout == "Mode is vllm (was auto).\n"
    assert place.chat().get(timeout=20)["engine"] == "vllm"
    assert place.cli("mode", "set", "auto").stdout == "Mode is auto (was vllm).\n"
    assert place.chat().get(timeout=20)["engine"] == "ollama"


def test_chat_writes_the_answer_as_it_comes(place: Installation) -> None:
    place.behave(Engine.OLLAMA, answer="a river " * 40)
    command = [sys.executable, "-m", "aegis_workers.cli", "chat", "Tell me about rivers."]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment.of(place.settings), stdout=pipe, cwd=place.logs) as running:
        assert running.stdout is not None
        assert os.read(running.stdout.fileno(), 4096)
        assert place.in_flight(Engine.OLLAMA) == 1  # the call still runs
        rest = running.stdout.read()
    place.behave(Engine.OLLAMA)
    assert running.returncode == 0
    assert rest.endswith(b"\n")


def test_an_answer_cannot_steer_the_terminal(place: Installation) -> None:
    place.behave(Engine.OLLAMA, answer="one\x1b[2Jtwo\nthree")
    try:
        assert place.cli("chat", "Hello.").stdout == "one [2Jtwo\nthree\n"
    finally:
        place.behave(Engine.OLLAMA)


def test_ctrl_c_ends_the_call_at_the_engine(place: Installation) -> None:
    aborted = place.stats(Engine.OLLAMA)["aborted"]
    place.behave(Engine.OLLAMA, hang=True)
    command = [sys.executable, "-m", "aegis_workers.cli", "chat", "Tell me about rivers."]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment.of(place.settings), stdout=pipe, stderr=pipe, cwd=place.logs) as running:
        try:
            eventually(lambda: place.in_flight(Engine.OLLAMA) == 1)
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=20)
        finally:
            running.kill()
    place.behave(Engine.OLLAMA)
    assert running.returncode == 1
    assert said == b"\nAborted!\n"
    eventually(lambda: place.stats(Engine.OLLAMA)["aborted"] == aborted + 1)


def test_a_call_that_fails_is_told_in_one_line(place: Installation) -> None:
    place.behave(Engine.OLLAMA, error_status=400, error_message="no such thing")
    told = place.cli("chat", "Hello.")
    place.behave(Engine.OLLAMA)
    assert told.returncode == 1
    assert told.stdout == ""
    assert told.stderr.startswith("Error: Ollama at http://127.0.0.1:")
    assert told.stderr.endswith(": no such thing\n")
    assert len(told.stderr.splitlines()) == 1
