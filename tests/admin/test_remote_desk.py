"""Jobs of another host: the same desk over HTTP, against the real application."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import admin_place
import answered
import httpx
import pytest
from admin_place import TOKEN, AdminPlace
from click.testing import CliRunner
from pydantic import SecretStr

import aegis_workers
from aegis_workers import settings as settings_module
from aegis_workers.cli import main
from aegis_workers.errors import AdminUnavailable, ConfigurationError, InvalidInput, NotPossible, UnknownJob
from aegis_workers.jobs.desks import open_desk
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.journal import Event, State
from aegis_workers.jobs.local import LocalDesk
from aegis_workers.jobs.manifest import EnginePolicy, Kind, Origin
from aegis_workers.jobs.remote import RemoteDesk
from aegis_workers.jobs.sources import Items, JsonLines, Texts
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms
from aegis_workers.outcome import Status
from aegis_workers.settings import Settings

OK, FAILED = Status.OK, Status.FAILED
REQUEST = {
    "custom_id": "r",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"messages": [{"role": "user", "content": "?"}]},
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[AdminPlace]:
    with admin_place.serving(admin_place.chosen(tmp_path)) as place:
        yield place


def settings_for(place: AdminPlace, folder: Path, token: str = TOKEN) -> Settings:
    """Those of a host that has not the jobs' folder."""
    return Settings(_env_file=None, data_dir=folder / "elsewhere", admin_url=place.url, admin_token=SecretStr(token))


@pytest.fixture
def desk(place: AdminPlace, tmp_path: Path) -> Iterator[RemoteDesk]:
    with open_desk(settings_for(place, tmp_path)) as opened:
        assert isinstance(opened, RemoteDesk)
        yield opened
    assert not (tmp_path / "elsewhere").exists()
    assert list(place.files.glob("file-*")) == []  # what was uploaded is not kept twice


def kept(place: AdminPlace, job_id: str) -> JobFolder:
    return Spool(place.settings.data_dir).open(job_id)


def test_what_is_submitted_over_http_is_what_is_submitted_here(place: AdminPlace, desk: RemoteDesk) -> None:
    terms = Terms(
        schema={"type": "object"},
        options={"instructions": "be brief"},
        metadata={"team": "blue"},
        policy=EnginePolicy.PER_JOB,
        expires_s=90.5,
        stop_share=0.25,
        stop_window=7,
    )
    items: list[Any] = ["plain", ("a-b", "a pair"), {"custom_id": "c", "text": "two\nlines é", "metadata": {"page": 1}}]
    receipt = desk.submit(Items(items=items, name="corpus"), terms)
    job = kept(place, receipt.job_id)
    manifest = job.manifest
    assert receipt.is_new
    assert [(item.custom_id, item.text, item.metadata) for item in job.items()] == [
        ("0", "plain", None),
        ("a-b", "a pair", None),
        ("c", "two\nlines é", {"page": 1}),
    ]
    assert (manifest.kind, manifest.source, manifest.input_name) == (Kind.EXTRACTION, Origin.HTTP, "corpus")
    assert (manifest.json_schema, manifest.metadata, manifest.policy) == (
        {"type": "object"},
        {"team": "blue"},
        EnginePolicy.PER_JOB,
    )
    assert manifest.options is not None
    assert (manifest.options.instructions, manifest.stop_share, manifest.stop_window) == ("be brief", 0.25, 7)
    assert manifest.expires_at - manifest.created_at == pytest.approx(90.5)


def test_chat_completions_are_known_by_their_lines(place: AdminPlace, desk: RemoteDesk, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(json.dumps(REQUEST) + "\n")
    receipt = desk.submit(JsonLines([str(path)], stdin=None, max_text_bytes=1000), Terms())
    assert kept(place, receipt.job_id).manifest.kind is Kind.COMPLETIONS


def test_the_same_key_is_the_same_job_over_there(desk: RemoteDesk) -> None:
    first = desk.submit(Items(items=["one"]), Terms(key="k"))
    again = desk.submit(Items(items=["two"]), Terms(key="k"))
    assert (again.job_id, first.is_new, again.is_new) == (first.job_id, True, False)


def test_what_is_wrong_is_named_where_it_stands_here(place: AdminPlace, desk: RemoteDesk, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"items\[1\]: text is missing"):
        desk.submit(Items(items=["good", {"custom_id": "x"}]), Terms())
    with pytest.raises(InvalidInput, match=r"items\[2\]: custom_id is that of items\[0\] too"):
        desk.submit(Items(items=[("a", "one"), ("b", "two"), ("a", "three")]), Terms())
    with pytest.raises(InvalidInput, match=r"items\[0\]: holds something that JSON cannot carry"):
        desk.submit(Items(items=[{"custom_id": "x", "text": object()}]), Terms())
    with pytest.raises(InvalidInput, match=r"nofile\.txt: No such file"):
        desk.submit(Texts(paths=[str(tmp_path / "nofile.txt")], max_bytes=1000), Terms())
    assert Spool(place.settings.data_dir).ids() == []


def test_a_job_stands_over_there_as_it_stands_here(place: AdminPlace, desk: RemoteDesk) -> None:
    job = answered.submitted(place.settings)
    answered.answer(job, {0: OK, 1: FAILED})
    with LocalDesk(place.settings) as local:
        here, there = local.find(job.id), desk.find(job.id)
    moving = {"at", "items_per_s", "tokens_per_s"}
    assert there.model_dump(mode="json", exclude=moving) == here.model_dump(mode="json", exclude=moving)
    assert [view.id for view in desk.list().jobs] == [job.id]


def test_a_job_is_found_by_its_beginning_over_there(place: AdminPlace, desk: RemoteDesk) -> None:
    with pytest.raises(UnknownJob):
        desk.resolve("last")
    jobs = [answered.submitted(place.settings).id for _ in range(3)]
    assert desk.resolve("last") == jobs[-1]
    assert desk.resolve(jobs[0][:-1]) == jobs[0]
    with pytest.raises(UnknownJob, match="3 jobs begin like that"):
        desk.resolve("job_")
    with pytest.raises(UnknownJob):
        desk.find("job_" + 24 * "0")
    assert [view.id for view in desk.list(1, jobs[-1]).jobs] == [jobs[1]]


def test_a_job_is_steered_over_there(place: AdminPlace, desk: RemoteDesk) -> None:
    job = answered.submitted(place.settings)
    with pytest.raises(NotPossible, match="not stopped"):
        desk.resume(job.id)
    answered.enter(job, Event.STOPPED, State.STOPPED, reason="all fail")
    assert desk.resume(job.id).state is State.IN_PROGRESS
    assert desk.cancel(job.id).state is State.CANCELLING
    with pytest.raises(NotPossible, match="cancel it first"):
        desk.delete(job.id)
    failed = answered.finished(place.settings, OK, FAILED)
    child = desk.retry(failed.id)
    assert kept(place, child).manifest.retry_of == failed.id
    with pytest.raises(NotPossible, match="being retried already"):
        desk.retry(failed.id)
    desk.delete(failed.id)
    assert failed.id not in Spool(place.settings.data_dir)


def test_results_are_read_over_there(place: AdminPlace, desk: RemoteDesk) -> None:
    job = answered.submitted(place.settings)
    answered.answer(job, {2: OK, 0: FAILED}, message="odd\u2028 line \x85 ends")
    with LocalDesk(place.settings) as local:
        assert list(desk.lines(job.id)) == list(local.lines(job.id))
    lines = desk.lines(job.id, follow=True)
    first = next(lines)
    answered.answer(job, {1: OK})
    answered.end(job)
    assert [json.loads(line.body)["custom_id"] for line in lines] == ["0", "1"]
    assert [json.loads(line.body)["custom_id"] for line in desk.lines(job.id, offset=first.offset)] == ["0", "1"]
    assert [json.loads(line.body)["custom_id"] for line in desk.lines(job.id, ordered=True)] == ["0", "1", "2"]
    with pytest.raises(InvalidInput, match="offset"):
        list(desk.lines(job.id, offset="elsewhere"))


def test_who_has_not_the_token_or_the_address_is_told(place: AdminPlace, tmp_path: Path) -> None:
    with open_desk(settings_for(place, tmp_path, token="wrong")) as desk, pytest.raises(ConfigurationError, match="refuses"):
        desk.list()
    away = settings_for(place, tmp_path).model_copy(update={"admin_url": "http://127.0.0.1:1"})
    with open_desk(away) as desk, pytest.raises(AdminUnavailable, match="does not answer"):
        desk.list()
    other = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>"))
    with RemoteDesk(settings_for(place, tmp_path), transport=other) as odd, pytest.raises(AdminUnavailable, match="HTTP 502"):
        odd.list()


def test_python_and_the_command_line_ask_over_http(place: AdminPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "load", lambda: settings_for(place, tmp_path))
    job = aegis_workers.submit(f"text {number}" for number in range(3))
    answered.answer(kept(place, job.id), {0: OK, 1: FAILED, 2: OK})
    answered.end(kept(place, job.id))
    assert job.wait(5).state is State.COMPLETED
    assert [line["custom_id"] for line in job.results(ordered=True)] == ["0", "1", "2"]
    shown = CliRunner().invoke(main, ["status", "last"])
    assert "3 of 3 done: 2 ok, 1 failed" in shown.output
    assert kept(place, job.retry().id).manifest.items == 1
