"""Jobs as a person has them done: by the command line, through a controller, workers and an engine that are real processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import job_place
import pytest
from installation import eventually
from job_place import JobPlace, ids, texts

from aegis_workers.jobs.journal import State
from aegis_workers.routing import Engine

pytestmark = pytest.mark.timeout(180)

FAST = ("--call-seconds", "0.02", "--slots", "64")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobPlace]:
    with job_place.job_place(tmp_path_factory.mktemp("desk"), vllm=FAST) as place:
        place.start_controller()
        yield place


def corpus(here: JobPlace, count: int) -> Path:
    path = here.place.logs / f"corpus-{count}.jsonl"
    path.write_text("".join(json.dumps({"custom_id": name, "text": text}) + "\n" for name, text in texts(count)))
    return path


def cli(here: JobPlace, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    found = here.place.cli(*arguments)
    assert found.returncode == status, found.stderr
    return found


def read(found: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_a_corpus_goes_in_and_every_result_comes_out(here: JobPlace) -> None:
    submitted = cli(here, "submit", str(corpus(here, 200)), "--wait")
    job_id = submitted.stdout.strip()
    assert "Completed after" in submitted.stderr
    assert f"aegis-workers results {job_id}" in submitted.stderr
    ordered = read(cli(here, "results", job_id, "--ordered"))
    assert [line["custom_id"] for line in ordered] == [f"doc-{number}" for number in range(200)]
    told = json.loads(cli(here, "status", job_id, "--json").stdout)
    assert (told["state"], told["done"], told["failed"], told["calls"]) == ("completed", 200, 0, {"vllm": 200})
    assert told["completion_tokens"] > 0


def test_results_are_followed_from_the_submission_to_the_end(here: JobPlace) -> None:
    job_id = cli(here, "submit", str(corpus(here, 150))).stdout.strip()
    assert len(ids(read(cli(here, "results", job_id, "--follow")))) == 150


def test_a_few_items_are_tried_and_the_rest_is_reckoned(here: JobPlace) -> None:
    before = here.asked()
    found = cli(here, "submit", str(corpus(here, 100)), "--try", "5")
    assert "The other 95 take about" in found.stdout
    assert "doc-4" in found.stdout
    assert "doc-5" not in found.stdout
    assert here.asked() - before == 5


def test_a_cancelled_job_is_retried_where_it_was_broken_off(here: JobPlace) -> None:
    here.place.behave(Engine.VLLM, hang=True)
    job_id = cli(here, "submit", str(corpus(here, 200))).stdout.strip()
    eventually(lambda: here.place.in_flight(Engine.VLLM) > 20)
    cli(here, "cancel", job_id)
    cli(here, "watch", job_id, status=1)
    eventually(lambda: here.place.in_flight(Engine.VLLM) == 0)
    here.place.behave(Engine.VLLM)
    child = cli(here, "retry", job_id).stdout.strip()
    cli(here, "watch", child)
    latest = read(cli(here, "results", job_id, "--ordered"))
    assert ids(latest) == dict.fromkeys((f"doc-{number}" for number in range(200)), 1)
    assert {line["status"] for line in latest} == {"ok"}


def test_a_job_that_only_fails_stops_and_goes_on_when_it_is_resumed(here: JobPlace) -> None:
    here.place.behave(Engine.VLLM, error_status=422)
    found = cli(here, "submit", str(corpus(here, 3000)), "--wait", status=1)
    here.place.behave(Engine.VLLM)
    job_id = found.stdout.strip()
    assert "Stopped after" in found.stderr
    assert "HTTP 422" in found.stderr
    cli(here, "resume", job_id)
    here.await_state(here.spool.open(job_id), State.COMPLETED, within_s=50.0)


def test_ctrl_c_leaves_the_job_running(here: JobPlace) -> None:
    here.place.behave(Engine.VLLM, asleep=True)
    job_id = cli(here, "submit", str(corpus(here, 200))).stdout.strip()
    command = [sys.executable, "-m", "aegis_workers.cli", "watch", job_id]
    with subprocess.Popen(
        command, env=here.place.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert "in_progress" in child.stdout.readline()
        os.kill(child.pid, signal.SIGINT)
        _, said = child.communicate(timeout=20)
    assert here.spool.open(job_id).journal.last().state is State.IN_PROGRESS
    assert child.returncode == 130
    assert "The job goes on" in said
    here.place.behave(Engine.VLLM)
    here.await_state(here.spool.open(job_id), State.COMPLETED)
