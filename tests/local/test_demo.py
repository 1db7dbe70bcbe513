import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import answered
import pytest
import redis
from rich.cells import cell_len

from aegis_workers.cli import watch
from aegis_workers.jobs.journal import State
from aegis_workers.jobs.local import LocalDesk
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.view import View
from aegis_workers.local import children, demo, documents, process, redis_server, system
from aegis_workers.outcome import Status
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import keys

COMMAND = (sys.executable, "-m", "aegis_workers.cli", "demo")


def environment(folder: Path, redis_url: str | None = None) -> dict[str, str]:
    nobody = f"redis://127.0.0.1:{process.free_port()}/0"
    return {**os.environ, "AEGIS_REDIS_URL": redis_url or nobody, "COLUMNS": "80", "TMPDIR": str(folder)}


def run(folder: Path, *arguments: str, redis_url: str | None = None) -> subprocess.CompletedProcess[str]:
    env, command = environment(folder, redis_url), [*COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=env, timeout=50)


@pytest.fixture
def idle_redis() -> Iterator[redis.Redis]:
    """A Redis that nobody uses."""
    nobody = f"redis://127.0.0.1:{process.free_port()}/0"
    with redis_server.running(nobody) as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield client


def url_of(client: redis.Redis) -> str:
    found = client.get_connection_kwargs()
    return f"redis://default:{found['password']}@127.0.0.1:{found['port']}/0"


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(system, "running", fail)


def test_the_bundled_samples_are_extracted_and_the_result_is_complete(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    ended = run(tmp_path, "--output", str(result))
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = json.loads(result.read_text())
    assert [line["custom_id"] for line in lines] == [path.name for path in documents.samples()]
    assert all(line["status"] == "ok" and line["simulated"] and line["data"]["entities"] for line in lines)
    assert any(line["data"]["relations"] for line in lines)
    parts = {"custom_id", "status", "data", "error", "engine", "mode", "attempts", "usage", "calls"}
    assert all(line.keys() == parts | {"simulated"} for line in lines)
    for path, line in zip(documents.samples(), lines, strict=True):
        text = path.read_text(encoding="utf-8")
        assert all(
            0 <= mention["start"] < mention["end"] <= len(text)
            for entity in line["data"]["entities"]
            for mention in entity["mentions"]
            if not mention.get("ungrounded")
        )


def test_what_people_see_is_plain_when_piped_and_says_that_simulators_are_no_language_model(tmp_path: Path) -> None:
    text = tmp_path / "note.txt"
    text.write_text("Brennholt Pharma AG acquired Spectralis Labs. Anna Löwenthal leads Spectralis Labs.\n", encoding="utf-8")
    ended = run(tmp_path, str(text))
    assert ended.returncode == 0
    assert "NOT a language model" in ended.stdout
    assert "\x1b" not in ended.stdout
    rows = ended.stdout[ended.stdout.index("note.txt  ok") :].splitlines()
    assert all(cell_len(row) <= 80 for row in rows if not row.startswith("JSON result: "))
    assert "Brennholt Pharma AG acquired → Spectralis Labs" in [" ".join(row.split()) for row in rows]
    result = Path(rows[-1].removeprefix("JSON result: "))
    assert [line["status"] for line in json.loads(result.read_text(encoding="utf-8"))] == ["ok"]


@pytest.fixture
def note(tmp_path: Path) -> Path:
    path = tmp_path / "note.txt"
    path.write_text("Anna Löwenthal leads Spectralis Labs.\n", encoding="utf-8")
    return path


def test_a_redis_with_waiting_tasks_is_left_alone(tmp_path: Path, note: Path, idle_redis: redis.Redis) -> None:
    idle_redis.lpush("extraction", "a task of somebody else")
    ended = run(tmp_path, str(note), "--output", "result.json", redis_url=url_of(idle_redis))
    assert ended.returncode == 0
    assert "tasks wait there, which are for other workers" in ended.stdout
    assert idle_redis.llen("extraction") == 1
    assert not idle_redis.exists(keys.MODE)


def test_a_redis_where_another_controller_leads_is_left_alone(tmp_path: Path, note: Path, idle_redis: redis.Redis) -> None:
    idle_redis.set(keys.CONTROLLER, "1:elsewhere:7")
    ended = run(tmp_path, str(note), "--output", "result.json", redis_url=url_of(idle_redis))
    assert ended.returncode == 0
    assert "another controller leads there, which looks after other jobs" in ended.stdout
    assert idle_redis.keys() == [keys.CONTROLLER]


def left(client: redis.Redis) -> set[str]:
    """What an idle Redis has that could be of a job: its state, its tasks, a mode, and a leader."""
    found: Any = client.keys()
    return {key for key in found if key.startswith("aegis:job") or key in {*children.WORKERS, keys.MODE, keys.CONTROLLER}}


def test_nothing_is_left_of_a_demo_but_its_result(tmp_path: Path, note: Path, idle_redis: redis.Redis) -> None:
    ended = run(tmp_path, str(note), "--output", "result.json", redis_url=url_of(idle_redis))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Redis: the one at" in ended.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"note.txt", "result.json"}
    assert left(idle_redis) == set()


def test_nothing_is_left_of_an_interrupted_demo(tmp_path: Path, idle_redis: redis.Redis) -> None:
    text = tmp_path / "long.txt"
    text.write_text("Anna Löwenthal leads Spectralis Labs in Port Selby.\n" * 30_000, encoding="utf-8")
    env = environment(tmp_path, url_of(idle_redis))
    with subprocess.Popen([*COMMAND, str(text)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as popen:
        while popen.poll() is None and not idle_redis.exists(keys.JOBS):
            time.sleep(0.02)
        popen.send_signal(signal.SIGINT)
        _, said = popen.communicate(timeout=30)
    assert (popen.returncode, said) == (demo.INTERRUPTED, "Interrupted; everything was stopped.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["long.txt"]
    assert left(idle_redis) == set()


@pytest.fixture
def nobody_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """A system without processes; the settings that it ran with."""
    ran: list[Settings] = []

    @contextmanager
    def running(settings: Settings, *, simulated: Any) -> Iterator[system.System]:
        ran.append(settings)
        server = redis_server.RedisServer(url=settings.redis_url, origin="none")
        yield system.System(
            settings=settings, logs=tmp_path, redis=server, simulated=simulated, processes=(), flower=None, admin_url=None
        )

    monkeypatch.setattr(system, "running", running)
    return ran


def test_the_documents_are_one_job_and_come_in_their_order_and_one_that_failed_is_shown_and_fails_the_demo(
    tmp_path: Path, nobody_works: list[Settings], note: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[View] = []

    @contextmanager
    def shown(_: IO[str]) -> Iterator[Any]:
        yield look

    def look(view: View) -> None:
        if not seen:
            job = Spool(nobody_works[0].data_dir).open(view.id)
            answered.answer(job, {1: Status.FAILED}, message="no such model")
            answered.answer(job, {0: Status.EMPTY})
            answered.end(job)
        seen.append(view)

    other = tmp_path / "another.txt"
    other.write_text("Nothing.")
    settings = Settings(_env_file=None, redis_url="redis://127.0.0.1:1/0", data_dir=tmp_path / "data")
    assert demo.demo(settings, [note, other], None, tmp_path / "result.json", shown) == 1
    lines = json.loads((tmp_path / "result.json").read_text())
    assert [(line["custom_id"], line["status"]) for line in lines] == [("note.txt", "empty"), ("another.txt", "failed")]
    assert "no such model" in capsys.readouterr().out
    assert (seen[-1].manifest.items, seen[-1].manifest.stop_share) == (2, 1.0)
    assert not nobody_works[0].data_dir.exists()
    assert not settings.data_dir.exists()


def test_a_demo_that_is_interrupted_while_it_submits_takes_its_job_back(
    tmp_path: Path, nobody_works: list[Settings], note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, cancel = LocalDesk.submit, LocalDesk.cancel
    states: list[State] = []

    def interrupted(self: LocalDesk, *job: Any) -> Any:
        submit(self, *job)
        raise KeyboardInterrupt

    def taken_back(self: LocalDesk, job_id: str) -> Any:
        view = cancel(self, job_id)
        states.append(view.state)
        return view

    monkeypatch.setattr(LocalDesk, "submit", interrupted)
    monkeypatch.setattr(LocalDesk, "cancel", taken_back)
    settings = Settings(_env_file=None, redis_url="redis://127.0.0.1:1/0", data_dir=tmp_path / "data")
    assert demo.demo(settings, [note], None, None, watch.shown) == demo.INTERRUPTED
    assert states == [State.CANCELLING]
    assert not nobody_works[0].data_dir.exists()


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "text is empty"),
        (b"\0", "binary"),
        (b"\x01\x02\x03", "text is mostly control characters and looks binary"),
        (b"\xff\xfe1", "not UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_ends_the_demo_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes | None, word: str
) -> None:
    path = tmp_path / "bad.txt"
    if data is not None:
        path.write_bytes(data)
    assert demo.demo(Settings(), [*documents.samples(), path], None, None, watch.shown) == 2
    said = capsys.readouterr()
    assert f"{path}: {word}" in said.err
    assert said.out == ""


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize("output", [".", "no/such/folder/x.json"])
def test_an_output_that_cannot_be_written_ends_the_demo_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    assert demo.demo(Settings(), [], None, tmp_path / output, watch.shown) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.fixture
def ollama_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        child = children.start_simulator(Engine.OLLAMA, Settings(), Path(folder))
        try:
            yield children.address(child)
        finally:
            process.stop([child], 5)


def test_an_engine_without_a_model_is_not_used() -> None:
    assert demo.unusable(Settings(), Engine.OLLAMA) == "AEGIS_OLLAMA_MODEL is not set"


def test_an_engine_that_does_not_answer_is_not_used() -> None:
    url = f"http://127.0.0.1:{process.free_port()}"
    settings = Settings().model_copy(update={"ollama_url": (url,), "ollama_model": "sim"})
    problem = demo.unusable(settings, Engine.OLLAMA)
    assert problem
    assert url in problem


def test_an_engine_that_answers_and_has_the_model_is_used(ollama_url: str) -> None:
    settings = Settings().model_copy(update={"ollama_url": (ollama_url,), "ollama_model": "sim"})
    assert demo.unusable(settings, Engine.OLLAMA) is None
    lacking = settings.model_copy(update={"ollama_model": "another"})
    assert "another" in str(demo.unusable(lacking, Engine.OLLAMA))
