import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from rich.cells import cell_len

from aegis_workers.local import children, demo, documents, process, redis_server, system
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import keys


def run(folder: Path, *arguments: str, redis_url: str | None = None) -> subprocess.CompletedProcess[str]:
    nobody = f"redis://127.0.0.1:{process.free_port()}/0"
    environment = {**os.environ, "AEGIS_REDIS_URL": redis_url or nobody, "COLUMNS": "80", "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "aegis_workers.cli", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=50)


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


def test_a_redis_with_waiting_tasks_is_left_alone(tmp_path: Path) -> None:
    nobody = f"redis://127.0.0.1:{process.free_port()}/0"
    text = tmp_path / "note.txt"
    text.write_text("Anna Löwenthal leads Spectralis Labs.\n", encoding="utf-8")
    with redis_server.running(nobody) as server, redis.Redis.from_url(server.url) as client:
        client.lpush("extraction", "a task of somebody else")
        ended = run(tmp_path, str(text), "--output", "result.json", redis_url=server.url)
        assert ended.returncode == 0
        assert "tasks wait there, which a simulator must not answer" in ended.stdout
        assert client.llen("extraction") == 1
        assert not client.exists(keys.MODE)


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
    assert demo.demo(Settings(), [*documents.samples(), path], None, None) == 2
    said = capsys.readouterr()
    assert f"{path}: {word}" in said.err
    assert said.out == ""


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize("output", [".", "no/such/folder/x.json"])
def test_an_output_that_cannot_be_written_ends_the_demo_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    assert demo.demo(Settings(), [], None, tmp_path / output) == 2
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
