"""What a person sees of jobs on the command line, without a controller: nothing runs but the command."""

import json
from pathlib import Path
from typing import Any

import answered
import pytest
from click.testing import CliRunner, Result

from aegis_workers import settings as settings_module
from aegis_workers.cli import main
from aegis_workers.jobs.journal import Event, State
from aegis_workers.jobs.spool import Spool
from aegis_workers.outcome import Status
from aegis_workers.settings import Settings

OK, FAILED = Status.OK, Status.FAILED


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A data folder, and no Redis anywhere."""
    settings = Settings(_env_file=None, redis_url="redis://127.0.0.1:1/0", data_dir=tmp_path / "data")
    monkeypatch.setattr(settings_module, "load", lambda: settings)
    return settings


def run(*arguments: str, status: int = 0, given: str | None = None) -> Result:
    result = CliRunner().invoke(main, arguments, input=given)
    assert result.exit_code == status, result.output
    return result


def shown(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


LINES = "".join(f'{{"custom_id": "{number}", "text": "text {number}"}}\n' for number in range(3))


def test_what_is_submitted_is_listed(alone: Settings, tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(LINES)
    assert run("jobs").stdout == "There are no jobs.\n"
    job_id = run("submit", str(path), "--name", "autumn").stdout.strip()
    listed = run("jobs")
    assert job_id in listed.stdout
    assert "autumn" in listed.stdout
    assert "Waiting: Redis at redis://127.0.0.1:1/0 does not answer" in listed.stderr
    (listed,) = shown("jobs")["jobs"]
    assert (listed["id"], listed["state"], listed["items"], listed["done"]) == (job_id, "in_progress", 3, 0)
    assert Spool(alone.data_dir).ids() == [job_id]


def test_a_trial_has_no_key(alone: Settings) -> None:
    assert "leave --key" in run("submit", "-", "--key", "k", "--try", "1", given=LINES, status=2).stderr
    assert Spool(alone.data_dir).ids() == []


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("command", ["status", "watch", "results", "retry", "cancel", "resume", "delete"])
def test_a_job_that_is_not_there_is_one_sentence(command: str) -> None:
    assert run(command, "last", status=1).stderr.startswith("Error: there is no such job")
    assert run(command, status=2).stderr.startswith("Usage:")


def test_status_says_what_there_is_to_say(alone: Settings) -> None:
    job = answered.submitted(alone)
    answered.answer(job, {0: OK, 1: FAILED}, message="no such\x1b[31m model")
    said = run("status", "last").stdout
    assert f"Job:     {job.id} (items)" in said
    assert "Waits:   Redis at redis://127.0.0.1:1/0 does not answer" in said
    assert "Items:   2 of 3 done: 1 ok, 1 failed" in said
    assert "Error:   1 of the newest failures: item-fatal: no such [31m model" in said
    assert "vLLM 100% of the calls" in said
    told = shown("status", job.id)
    assert (told["failed"], told["by_status"], told["completion_tokens"]) == (1, {"ok": 1, "failed": 1}, 10)
    assert [entry["event"] for entry in told["journal"]] == ["submitted"]


def test_watching_ends_with_the_job_and_says_how(alone: Settings) -> None:
    completed = answered.finished(alone, OK, FAILED)
    said = run("watch", completed.id).stdout
    assert "Completed after" in said
    assert f"aegis-workers retry {completed.id}" in said
    cancelled = answered.submitted(alone)
    answered.end(cancelled, State.CANCELLED)
    assert "Cancelled after" in run("watch", "last", status=1).stdout
    stopped = answered.submitted(alone)
    answered.enter(stopped, Event.STOPPED, State.STOPPED, reason="100 of the last 100 items failed\x1b[2J")
    said = run("watch", "last", status=1).stdout
    assert "100 of the last 100 items failed [2J." in said
    assert f"aegis-workers resume {stopped.id}" in said


def test_ctrl_c_ends_the_watching_and_not_the_job(alone: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    job = answered.submitted(alone)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aegis_workers.cli.watch.time.sleep", interrupted)
    result = run("watch", "last", status=130)
    assert "in_progress: 0 of 3 done" in result.stdout
    assert f"The job goes on. To watch it again: aegis-workers watch {job.id}" in result.stderr
    assert job.journal.last().state is State.IN_PROGRESS


def test_results_are_the_lines_and_nothing_else(alone: Settings, tmp_path: Path) -> None:
    job = answered.submitted(alone)
    answered.answer(job, {2: OK, 0: FAILED})
    result = run("results", "last")
    assert [json.loads(line)["custom_id"] for line in result.stdout.splitlines()] == ["2", "0"]
    assert "in_progress: 2 of 3 items are done" in result.stderr
    offset = result.stderr.split("--offset ")[1].strip()
    answered.answer(job, {1: OK})
    path = tmp_path / "found.jsonl"
    run("results", "last", "--output", str(path))
    assert len(path.read_text().splitlines()) == 3
    run("results", "last", "--output", str(path), "--offset", offset)  # goes on at the end of the file
    assert [json.loads(line)["custom_id"] for line in path.read_text().splitlines()] == ["2", "0", "1", "1"]
    enveloped = [json.loads(line) for line in run("results", "last", "--ordered", "--json").stdout.splitlines()]
    assert [(line["status"], line["line"]["custom_id"]) for line in enveloped] == [("failed", "0"), ("ok", "1"), ("ok", "2")]
    assert "offset" in run("results", "last", "--offset", "elsewhere", status=1).stderr
    assert "cannot be written" in run("results", "last", "--output", str(tmp_path / "no" / "folder"), status=1).stderr


def test_following_results_fails_where_the_job_did_not_complete(alone: Settings) -> None:
    answered.finished(alone, OK)
    run("results", "last", "--follow")
    cancelled = answered.submitted(alone)
    answered.end(cancelled, State.CANCELLED)
    run("results", "last", "--follow", status=1)


def test_what_failed_is_retried_by_a_job_of_its_own(alone: Settings) -> None:
    job = answered.finished(alone, OK, FAILED)
    result = run("retry", "last")
    child = result.stdout.strip()
    assert "1 items of" in result.stderr
    assert f"Retries: {job.id}" in run("status", child).stdout.replace("  ", " ")
    assert child in run("status", job.id).stdout
    assert "being retried already" in run("retry", job.id, status=1).stderr


def test_a_job_is_cancelled_resumed_and_deleted(alone: Settings) -> None:
    job = answered.submitted(alone)
    answered.enter(job, Event.STOPPED, State.STOPPED, reason="all fail")
    assert run("resume", "last").stdout == f"{job.id} goes on.\n"
    assert "not stopped" in run("resume", "last", status=1).stderr
    assert "cancel it first" in run("delete", "last", status=1).stderr
    assert f"{job.id} is cancelling" in run("cancel", "last").stdout
    answered.end(job, State.CANCELLED)
    assert run("cancel", "last").stdout == f"{job.id} is cancelled.\n"
    assert shown("delete", "last") == {"id": job.id, "deleted": True}
    assert Spool(alone.data_dir).ids() == []
