"""The unmodified client of OpenAI against a whole installation: controller, workers, an engine's double and the admin API."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import admin_place
import pytest
from admin_place import AdminPlace, json_lines, requests, texts
from installation import Installation, eventually, installed
from openai import OpenAI
from openai.types import Batch

from aegis_workers.jobs.remote import RemoteDesk
from aegis_workers.local import process
from aegis_workers.routing import Engine

EXTRACTIONS: Any = "/v1/extractions"  # the client's types know OpenAI's endpoints only
# More than the simulated model's context: the engine refuses it.
TOO_LONG = {"model": "sim", "messages": [{"role": "user", "content": "Hello?"}], "max_completion_tokens": 100_000}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, AdminPlace]]:
    folder = tmp_path_factory.mktemp("live")
    rules: dict[str, Any] = {"llm_engine_mode": "vllm", "ollama_model": None, "vllm_limit": 32, "data_dir": folder / "data"}
    with ExitStack() as stack:
        whole = stack.enter_context(installed(folder, "extraction", vllm=("--call-seconds", "0.2"), **rules))
        command = [sys.executable, "-m", "aegis_workers.cli", "controller"]
        controller = process.start("controller", command, log=folder / "controller.log", env=whole.environment)
        stack.callback(process.stop, [controller], 10)
        settings = whole.settings.model_copy(update={"admin_token": admin_place.chosen(folder).admin_token})
        yield whole, stack.enter_context(admin_place.serving(settings))


@pytest.fixture
def client(place: tuple[Installation, AdminPlace]) -> Iterator[OpenAI]:
    with place[1].openai() as client:
        yield client


def create(client: OpenAI, content: bytes, endpoint: Any = "/v1/chat/completions", **more: Any) -> Batch:
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


def ended(client: OpenAI, batch: Batch, status: str = "completed") -> Batch:
    """The batch once it has ended."""

    def look() -> Batch | None:
        found = client.batches.retrieve(batch.id)
        return found if found.status == status else None

    found: Batch = eventually(look, within_s=45)
    return found


def read(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a result file; a file that a batch does not name has none."""
    return [] if file_id is None else [json.loads(line) for line in client.files.content(file_id).read().splitlines()]


def test_a_batch_of_chat_completions_runs_from_upload_to_output_and_error_file(client: OpenAI) -> None:
    refused = {"custom_id": "too long", "method": "POST", "url": "/v1/chat/completions", "body": TOO_LONG}
    batch = ended(client, create(client, requests(30) + json_lines([refused])))
    assert batch.request_counts
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (31, 30, 1)
    assert batch.completed_at
    assert batch.in_progress_at
    assert batch.completed_at >= batch.in_progress_at >= batch.created_at
    assert batch.usage
    assert batch.usage.output_tokens > 0
    output, errors = read(client, batch.output_file_id), read(client, batch.error_file_id)
    assert Counter(line["custom_id"] for line in output) == dict.fromkeys((f"request-{number}" for number in range(30)), 1)
    for line in output:
        assert (line["response"]["status_code"], line["error"]) == (200, None)
        assert line["response"]["body"]["choices"][0]["message"]["content"]
        assert line["aegis"]["engine"] == "vllm"
    [line] = errors
    assert (line["custom_id"], line["aegis"]["status"]) == ("too long", "failed")
    for file_id in (batch.output_file_id, batch.error_file_id):
        assert file_id
        file = client.files.retrieve(file_id)
        assert (file.purpose, file.bytes) == ("batch_output", len(client.files.content(file_id).read()))


def test_a_batch_of_texts_is_extracted_and_its_results_can_be_read_on_from_any_line(
    client: OpenAI, place: tuple[Installation, AdminPlace]
) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    batch = ended(client, create(client, texts(20), EXTRACTIONS, extra_body={"aegis": {"schema": schema}}))
    output = read(client, batch.output_file_id)
    assert {line["custom_id"] for line in output} == {f"text-{number}" for number in range(20)}
    assert all(isinstance(line["data"]["name"], str) for line in output)
    assert batch.error_file_id is None
    with place[1].http() as http:
        path = f"/v1/batches/{batch.id}/results"
        lines = [json.loads(line) for line in http.get(path).content.splitlines()]
        assert [line["line"] for line in lines] == output
        assert [line["status"] for line in lines] == [line["status"] for line in output]
        for at in (0, 7, 19):
            rest = http.get(path, params={"offset": lines[at]["offset"]}).content.splitlines()
            assert [json.loads(line) for line in rest] == lines[at + 1 :]
        ordered = [json.loads(line)["line"]["custom_id"] for line in http.get(path, params={"ordered": True}).iter_lines()]
        assert ordered == [f"text-{number}" for number in range(20)]
    with RemoteDesk(place[1].settings.model_copy(update={"admin_url": place[1].url})) as desk:
        assert [json.loads(line.body) for line in desk.lines(batch.id)] == output
        assert desk.find(batch.id).done == 20


def test_a_batch_is_read_while_it_runs_and_cancelled_with_its_calls(
    client: OpenAI, place: tuple[Installation, AdminPlace]
) -> None:
    batch = create(client, texts(2000), EXTRACTIONS)
    running = eventually(lambda: (found := client.batches.retrieve(batch.id)).output_file_id and found)
    assert running.status == "in_progress"
    early = read(client, running.output_file_id)
    assert 0 < len(early) < 2000
    assert client.batches.cancel(batch.id).status in {"cancelling", "cancelled"}
    batch = ended(client, batch, "cancelled")
    eventually(lambda: place[0].in_flight(Engine.VLLM) == 0)
    output, errors = read(client, batch.output_file_id), read(client, batch.error_file_id)
    assert output[: len(early)] == early
    assert Counter(line["custom_id"] for line in [*output, *errors]) == dict.fromkeys(
        (f"text-{number}" for number in range(2000)), 1
    )
    assert {line["status"] for line in errors} == {"cancelled"}
    assert batch.request_counts
    assert (batch.request_counts.completed, batch.request_counts.failed) == (len(output), len(errors))
    assert batch.cancelling_at
    assert batch.cancelled_at


def test_what_was_cancelled_is_retried_as_a_batch_of_its_own(client: OpenAI, place: tuple[Installation, AdminPlace]) -> None:
    batch = create(client, texts(200), EXTRACTIONS)
    client.batches.cancel(batch.id)
    ended(client, batch, "cancelled")
    with place[1].http() as http:
        answer = http.post(f"/v1/batches/{batch.id}/retry", headers={"Idempotency-Key": "again"})
    child = client.batches.retrieve(answer.json()["id"])
    assert child.model_dump()["aegis"]["manifest"]["retry_of"] == batch.id
    ended(client, child)
    merged = read(client, f"file-{batch.id}-output")
    assert {line["custom_id"] for line in merged} == {f"text-{number}" for number in range(200)}
    assert read(client, f"file-{batch.id}-errors") == []
    with place[1].http() as http:
        nothing = http.post(f"/v1/batches/{child.id}/retry")
        assert (nothing.status_code, nothing.json()["error"]["code"]) == (400, "not_possible")
