"""`aside`: what was set aside, listed and enqueued again."""

import json

import pytest
import redis
from click.testing import CliRunner

from aegis_workers import settings as settings_module
from aegis_workers.cli import main
from aegis_workers.settings import Settings
from aegis_workers.state import aside
from aegis_workers.state.aside import Entry

ENTRY = Entry(
    entry_id="t:1",
    task="aegis.extract_batch",
    queue="extraction",
    kwargs={"items": [{"custom_id": "c", "text": "zanzibar"}]},
    history=[{"what": "its worker died", "at": 1.0}],
    at=2.0,
    custom_id="c",
)


@pytest.fixture(autouse=True)
def _set_aside(settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "load", lambda: settings)
    aside.put(client, ENTRY)


def run(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, ["aside", *arguments])
    assert result.exit_code == status, result.output
    return result.output


def test_the_list_shows_history_and_no_text() -> None:
    shown = run("list")
    assert "t:1" in shown
    assert "its worker died" in shown
    assert "zanzibar" not in shown
    assert json.loads(run("list", "--json"))[0]["kwargs"]["items"][0]["text"] == "zanzibar"


def test_what_is_dropped_is_gone(client: redis.Redis) -> None:
    assert "Forgot t:1." in run("drop", "t:1")
    assert "Nothing was set aside." in run("list")
    assert "not set aside: t:1" in run("drop", "t:1", status=1)
    assert aside.read_all(client) == []


def test_one_names_ids_or_says_all() -> None:
    assert "name the IDs, or give --all" in run("requeue", status=2)
    assert "name the IDs, or give --all" in run("requeue", "t:1", "--all", status=2)
    assert "not set aside: other" in run("requeue", "other", status=1)


def test_the_first_history_stays(client: redis.Redis) -> None:
    aside.put(client, Entry(**{**ENTRY.__dict__, "history": []}))
    assert aside.read_all(client) == [ENTRY]


def test_what_is_of_a_job_is_read_again_by_a_retry_of_the_job(client: redis.Redis) -> None:
    chunk = {"n": 7, "custom_id": "d", "text": "zanzibar"}
    facts = {"entry_id": "job_1.a:0", "task": "aegis.read_chunks", "kwargs": {"job": "job_1", "chunks": [chunk]}}
    aside.put(client, Entry(**{**ENTRY.__dict__, **facts}))
    aside.remove(client, ENTRY.entry_id)
    assert "aegis-workers retry job_1" in run("requeue", "job_1.a:0", status=1)
    assert "aegis-workers retry job_1" in run("requeue", "--all")
    assert [entry.job_id for entry in aside.read_all(client)] == ["job_1"]
    assert client.llen("extraction") == 0
