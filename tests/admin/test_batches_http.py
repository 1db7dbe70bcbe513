"""Batches over HTTP while nothing works on them: what the data folder alone is enough for. Redis is away all the time."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import admin_place
import openai
import pytest
from admin_place import TOKEN, AdminPlace, requests, texts
from openai import OpenAI
from openai.types import Batch

from aegis_workers.jobs import submission
from aegis_workers.jobs.journal import Entry, Event, State
from aegis_workers.jobs.remote import RemoteDesk
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms

EXTRACTIONS: Any = "/v1/extractions"  # the client's types know OpenAI's endpoints only
COMPLETIONS: Any = "/v1/chat/completions"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminPlace]:
    with admin_place.serving(admin_place.chosen(tmp_path_factory.mktemp("admin"))) as place:
        yield place


@pytest.fixture
def client(place: AdminPlace) -> Iterator[OpenAI]:
    with place.openai() as client:
        yield client


def upload(client: OpenAI, content: bytes) -> str:
    return client.files.create(file=("in.jsonl", content), purpose="batch").id


def create(client: OpenAI, content: bytes, endpoint: Any = EXTRACTIONS, **more: Any) -> Batch:
    return client.batches.create(
        input_file_id=upload(client, content), endpoint=endpoint, completion_window=more.pop("completion_window", "24h"), **more
    )


def journal(place: AdminPlace, batch_id: str) -> Any:
    return Spool(place.settings.data_dir).open(batch_id).journal


def step(place: AdminPlace, batch_id: str, event: Event, state: State, **more: Any) -> None:
    """What a controller would write."""
    journal(place, batch_id).change(lambda _: Entry(event=event, state=state, **more))


@pytest.mark.parametrize(("endpoint", "content"), [(EXTRACTIONS, texts(7)), (COMPLETIONS, requests(7))])
def test_a_batch_is_made_of_a_file_and_found_again(client: OpenAI, endpoint: Any, content: bytes) -> None:
    file_id = upload(client, content)
    batch = client.batches.create(
        input_file_id=file_id, endpoint=endpoint, completion_window="24h", metadata={"corpus": "minutes"}
    )
    assert (batch.object, batch.status, batch.endpoint, batch.input_file_id) == ("batch", "in_progress", endpoint, file_id)
    assert (batch.completion_window, batch.metadata) == ("24h", {"corpus": "minutes"})
    assert batch.request_counts
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (7, 0, 0)
    assert batch.expires_at == batch.created_at + 86_400
    assert (batch.in_progress_at, batch.output_file_id, batch.error_file_id) == (batch.created_at, None, None)
    found = client.batches.retrieve(batch.id)
    assert found.model_dump(exclude={"aegis"}) == batch.model_dump(exclude={"aegis"})


def test_a_batch_has_its_own_copy_of_its_inputs(client: OpenAI, place: AdminPlace) -> None:
    batch = create(client, texts(3))
    client.files.delete(batch.input_file_id)
    assert [item.custom_id for item in Spool(place.settings.data_dir).open(batch.id).items()] == ["text-0", "text-1", "text-2"]


def test_what_openai_has_no_word_for_stands_under_aegis(client: OpenAI, place: AdminPlace) -> None:
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}
    extras = {
        "schema": schema,
        "options": {"temperature": 0.5, "instructions": "Numbers only."},
        "policy": "per-job",
        "stop_share": 0.25,
        "stop_window": 10,
        "name": "invoices",
    }
    batch = create(client, texts(2), completion_window="90m", extra_body={"aegis": extras})
    manifest = Spool(place.settings.data_dir).open(batch.id).manifest
    assert (manifest.json_schema, manifest.policy, manifest.stop_share, manifest.stop_window) == (schema, "per-job", 0.25, 10)
    assert manifest.options
    assert (manifest.options.temperature, manifest.input_name, manifest.source) == (0.5, "invoices", "http")
    assert manifest.expires_at - manifest.created_at == pytest.approx(5400)
    told = batch.model_dump()["aegis"]
    assert told["manifest"]["schema"] == schema
    assert "Redis" in told["waits"]


def test_the_same_key_twice_is_the_same_batch(client: OpenAI) -> None:
    first = create(client, texts(2), extra_headers={"Idempotency-Key": "one"})
    assert create(client, texts(2), extra_headers={"Idempotency-Key": "one"}).id == first.id
    assert create(client, texts(2), extra_body={"aegis": {"key": "one"}}).id == first.id
    assert create(client, texts(2), extra_headers={"Idempotency-Key": "another"}).id != first.id
    with pytest.raises(openai.BadRequestError, match="differ"):
        create(client, texts(2), extra_headers={"Idempotency-Key": "one"}, extra_body={"aegis": {"key": "two"}})


def test_two_requests_at_once_with_one_key_make_one_batch(client: OpenAI) -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.append(create(client, texts(300), extra_body={"aegis": {"key": "both"}}).id))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len(set(made)) == 1


def test_bad_lines_are_refused_with_their_numbers_and_no_batch_is_made(client: OpenAI) -> None:
    before = [batch.id for batch in client.batches.list()]
    lines = texts(2) + b'{"custom_id": "text-0", "text": "again"}\nnot JSON\n{"custom_id": "x"}\n'
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, lines)
    assert "line 4: not JSON" in caught.value.message
    assert "line 5: text is missing" in caught.value.message
    assert "line 3: custom_id is that of line 1 too" in caught.value.message
    assert (caught.value.type, caught.value.code) == ("invalid_request_error", "invalid_input")
    assert [batch.id for batch in client.batches.list()] == before


@pytest.mark.parametrize(
    ("asked", "words", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "/v1/extractions", "endpoint"),
        ({"completion_window": "a day"}, "number and a unit, such as 24h", "completion_window"),
        ({"completion_window": "9999d"}, "expires after", None),
        ({"metadata": {"number": 1}}, "string", "metadata.number"),
        ({"metadata": {"k" * 65: "v"}}, "64 characters", None),
        ({"input_file_id": None}, "string", "input_file_id"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, "not permitted", "output_expires_after"),
        ({"aegis": {"color": "red"}}, "not permitted", "aegis.color"),
        ({"aegis": {"policy": "fastest"}}, "per-job", "aegis.policy"),
        ({"aegis": {"options": {"deadline_s": 5}}}, "deadline_s", None),
        ({"aegis": {"options": {"temperature": "hot"}}}, "temperature", None),
        ({"aegis": {"schema": {"type": "nothing"}}}, "schema", None),
        ({"aegis": {"schema": {"type": "object", "title": "\ud800"}}}, "", None),
        ({"aegis": {"key": ""}}, "at least 1", "aegis.key"),
        ({"aegis": {"\ud800": 1}}, "unicode", "aegis"),
        ({"\ud800": 1}, "unicode", "body"),
        ({"aegis": {"key": "\ud800"}}, "unicode", "aegis.key"),
        ({"endpoint": "/v1/chat/completions"}, "the lines are texts", None),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_with_the_reason(
    place: AdminPlace, client: OpenAI, asked: dict[str, Any], words: str, param: str | None
) -> None:
    whole = {"input_file_id": upload(client, texts(1)), "endpoint": "/v1/extractions", "completion_window": "24h"} | asked
    with place.http() as http:
        answer = http.post("/v1/batches", content=json.dumps(whole), headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == 400, error
    assert words in error["message"]
    assert error["param"] == param


def test_schema_and_options_are_for_texts(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="response_format"):
        create(client, requests(1), COMPLETIONS, extra_body={"aegis": {"schema": {"type": "object"}}})
    with pytest.raises(openai.BadRequestError, match="the lines are chat completions"):
        create(client, requests(1))


def test_unknown_ids_are_not_found(client: OpenAI) -> None:
    for batch_id in ("batch_abc", "job_000000000000000000000000", "job_\x00"):
        for ask in (client.batches.retrieve, client.batches.cancel):
            with pytest.raises(openai.NotFoundError, match="there is no batch of this id"):
                ask(batch_id)
    for file_id in ("file-job_000000000000000000000000-output", "file-job_000000000000000000000000-errors"):
        for look in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError):
                look(file_id)
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id="file-none", endpoint=EXTRACTIONS, completion_window="24h")


def test_batches_are_listed_in_pages_the_newest_first(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = admin_place.chosen(tmp_path_factory.mktemp("list"))
    with admin_place.serving(settings) as place, place.openai() as client:
        empty = client.batches.list()
        assert (empty.data, empty.has_more) == ([], False)
        spool = Spool(settings.data_dir)
        made = [submission.write(spool, Items(items=["text"]), Terms(), settings).job.id for _ in range(7)]
        newest_first = sorted(made, reverse=True)
        assert [batch.id for batch in client.batches.list(limit=3)] == newest_first
        page = client.batches.list(limit=3, after=newest_first[3])
        assert [batch.id for batch in page.data] == newest_first[4:]
        assert not page.has_more
        assert client.batches.list(limit=6).has_more
        for limit in (0, 101):
            with pytest.raises(openai.BadRequestError, match="limit"):
                client.batches.list(limit=limit)


def test_a_job_that_came_another_way_is_a_batch_too(client: OpenAI, place: AdminPlace) -> None:
    settings = place.settings
    job = submission.write(Spool(settings.data_dir), Items(items=["some text"]), Terms(expires_s=3600), settings).job
    batch = client.batches.retrieve(job.id)
    assert (batch.endpoint, batch.input_file_id, batch.completion_window) == ("/v1/extractions", "", "3600s")


def test_states_and_times_are_those_of_openai(client: OpenAI, place: AdminPlace) -> None:
    batch = create(client, texts(2))
    step(place, batch.id, Event.STOPPED, State.STOPPED, reason="2 of the last 2 items failed")
    stopped = client.batches.retrieve(batch.id)
    assert (stopped.status, stopped.in_progress_at) == ("in_progress", batch.created_at)
    assert stopped.model_dump()["aegis"]["waits"] == "2 of the last 2 items failed"
    with place.http() as http:
        resumed = http.post(f"/v1/batches/{batch.id}/resume").json()
        assert resumed["aegis"]["entries"][-1]["event"] == "resumed"
        again = http.post(f"/v1/batches/{batch.id}/resume")
        assert (again.status_code, again.json()["error"]["code"]) == (400, "not_possible")
    cancelling = client.batches.cancel(batch.id)
    assert (cancelling.status, cancelling.cancelling_at is not None) == ("cancelling", True)
    assert client.batches.cancel(batch.id).status == "cancelling"
    step(place, batch.id, Event.ENDED, State.CANCELLED, counts={"cancelled": 2}, totals={})
    cancelled = client.batches.cancel(batch.id)
    assert (cancelled.status, cancelled.cancelled_at is not None) == ("cancelled", True)
    assert cancelled.request_counts
    assert (cancelled.request_counts.completed, cancelled.request_counts.failed) == (0, 2)
    assert (cancelled.output_file_id, cancelled.error_file_id) == (None, f"file-{batch.id}-errors")


def test_a_batch_that_failed_as_a_whole_says_why(client: OpenAI, place: AdminPlace) -> None:
    batch = create(client, texts(1))
    step(place, batch.id, Event.ENDED, State.FAILED, reason="its inputs cannot be read", counts={}, totals={})
    failed = client.batches.retrieve(batch.id)
    assert (failed.status, failed.failed_at is not None) == ("failed", True)
    assert failed.errors
    assert failed.errors.data
    assert failed.errors.data[0].message == "its inputs cannot be read"


def test_only_a_batch_that_has_ended_is_deleted(client: OpenAI, place: AdminPlace) -> None:
    batch = create(client, texts(1))
    with place.http() as http:
        refused = http.delete(f"/v1/batches/{batch.id}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "not_possible")
        step(place, batch.id, Event.ENDED, State.CANCELLED, counts={}, totals={})
        assert http.delete(f"/v1/batches/{batch.id}").json() == {"id": batch.id, "object": "batch", "deleted": True}
        assert http.delete(f"/v1/batches/{batch.id}").status_code == 404
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve(batch.id)


def test_results_that_are_not_there_yet_are_empty(client: OpenAI, place: AdminPlace) -> None:
    batch = create(client, texts(1))
    assert client.files.content(f"file-{batch.id}-output").read() == b""
    assert client.files.retrieve(f"file-{batch.id}-errors").bytes == 0
    with pytest.raises(openai.BadRequestError, match="deleted with their batch"):
        client.files.delete(f"file-{batch.id}-output")
    with place.http() as http:
        assert http.get(f"/v1/batches/{batch.id}/results").content == b""
        assert http.get("/v1/batches/job_0/results").status_code == 404
        assert http.get(f"/v1/batches/{batch.id}/results", params={"offset": "nonsense"}).status_code == 400


def test_redis_that_is_away_delays_no_answer(client: OpenAI) -> None:
    batch = create(client, texts(1))
    before = time.monotonic()
    for _ in range(20):
        client.batches.retrieve(batch.id)
    assert time.monotonic() - before < 15


def test_another_host_has_the_same_desk_over_http(place: AdminPlace) -> None:
    settings = place.settings.model_copy(update={"admin_url": place.url})
    assert settings.admin_token
    assert settings.admin_token.get_secret_value() == TOKEN
    with RemoteDesk(settings) as desk:
        made = desk.submit(Items(items=["one text", "another"]), Terms(key="from afar", metadata={"a": "b"}, expires_s=60.5))
        assert made.is_new
        assert not desk.submit(Items(items=["one text"]), Terms(key="from afar")).is_new
        view = desk.find(made.job_id)
        assert (view.id, view.manifest.items, view.manifest.metadata) == (made.job_id, 2, {"a": "b"})
        assert view.manifest.expires_at - view.manifest.created_at == pytest.approx(60.5)
        assert desk.list(1).jobs[0].id == desk.resolve("last") == made.job_id
        assert list(desk.lines(made.job_id)) == []
        assert desk.cancel(made.job_id).state is State.CANCELLING
