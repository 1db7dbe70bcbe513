"""`submit`: files and streams in, a job's id out."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import aegis_workers
from aegis_workers import settings as settings_module
from aegis_workers.cli import main
from aegis_workers.errors import InvalidInput
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.spool import Spool

LINES = '{"custom_id": "a", "text": "one"}\n{"custom_id": "b", "text": "two"}\n'


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AEGIS_DATA_DIR", str(tmp_path / "data"))
    settings_module.load.cache_clear()
    yield
    settings_module.load.cache_clear()


def submit(*arguments: str, stdin: str | None = None, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["submit", *arguments], input=stdin)
    assert result.exit_code == status, result.output
    return result


def job(told: Result) -> JobFolder:
    return Spool(Path("data")).open(told.stdout.strip())


def test_the_id_alone_is_on_stdout(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(LINES)
    told = submit("in.jsonl")
    assert [item.custom_id for item in job(told).items()] == ["a", "b"]
    assert told.stdout == f"{job(told).id}\n"
    assert told.stderr == "Submitted 2 items, 1 kB.\n"


def test_text_files_are_items_and_a_stream_is_lines(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("Ada Stone founded Riverton Glass. " * 400)
    (tmp_path / "b.txt").write_text("Bo")
    told = submit("a.md", "b.txt")
    assert [item.custom_id for item in job(told).items()] == ["a.md", "b.txt"]
    assert told.stderr.startswith("Submitted 2 items, 4 calls, 14 kB.")
    assert job(submit("-", stdin=LINES)).manifest.items == 2


def test_every_option_is_in_the_manifest(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    told = submit(
        "-", "--schema", "schema.json", "--instructions", "Be brief.", "--key", "k", "--name", "first", "--metadata", "team=x=y",
        "--policy", "per-job", "--expires", "24h", "--stop-share", "0.25", stdin=LINES,
    )  # fmt: skip
    manifest = job(told).manifest
    assert manifest.json_schema == schema
    assert manifest.options is not None
    assert manifest.options.instructions == "Be brief."
    assert (manifest.key, manifest.metadata) == ("k", {"team": "x=y", "name": "first"})
    assert (manifest.policy, manifest.stop_share, manifest.expires_at - manifest.created_at) == ("per-job", 0.25, 86_400)
    again = submit("-", "--key", "k", "--json", stdin="")
    assert json.loads(again.stdout)["id"] == manifest.id
    assert json.loads(again.stdout)["new"] is False


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 2, "Missing argument 'INPUT...'"),
        (("-", "--expires", "tomorrow"), 2, "write a number and a unit, such as 24h"),
        (("-", "--metadata", "team"), 2, "write KEY=VALUE"),
        (("-", "--stop-share", "2"), 2, "2.0 is not in the range"),
        (("-", "--schema", "bad.json"), 2, "the file holds no JSON"),
        (("none.txt",), 1, "Error: nothing was submitted\nnone.txt: No such file or directory\n"),
        (("-",), 1, "line 2: not JSON"),
        (("a.txt", "b.jsonl"), 1, "cannot be in one job"),
    ],
)
def test_what_cannot_be_submitted_says_why_and_leaves_nothing(
    tmp_path: Path, arguments: Sequence[str], status: int, words: str
) -> None:
    (tmp_path / "bad.json").write_text("{")
    told = submit(*arguments, stdin=LINES.replace('"two"}', '"zanzibar'), status=status)
    assert words in told.stderr
    assert "zanzibar" not in told.output
    assert told.stdout == ""
    assert Spool(Path("data")).ids() == []


def test_a_program_submits_what_it_iterates_over(tmp_path: Path) -> None:
    submitted = aegis_workers.submit((f"text {number}" for number in range(3)), metadata={"a": "b"}, policy="per-job", key="k")
    assert isinstance(submitted, aegis_workers.Job)
    folder = Spool(tmp_path / "data").open(submitted.id)
    assert [item.custom_id for item in folder.items()] == ["0", "1", "2"]
    assert (folder.manifest.policy, folder.manifest.metadata) == ("per-job", {"a": "b"})
    assert aegis_workers.submit([], key="k") == submitted
    with pytest.raises(InvalidInput, match="unknown policy: choose per-call, per-job"):
        aegis_workers.submit(["x"], policy="zanzibar")


def test_a_program_that_submits_loads_no_celery(tmp_path: Path) -> None:
    script = "import sys, aegis_workers; aegis_workers.submit(['x']); print('celery' in sys.modules, 'redis' in sys.modules)"
    env = {**os.environ, "AEGIS_DATA_DIR": str(tmp_path / "data")}
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    assert told.stdout == "False False\n"
