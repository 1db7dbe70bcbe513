"""Workers of two versions on one queue, as while they are updated one after another: no message is lost, and none is misread."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from celery.result import AsyncResult
from installation import Installation, eventually, installed

from aegis_workers.errors import InvalidInput
from aegis_workers.state import keys

HELLO = [{"role": "user", "content": "Hello there."}]

# A worker of a version to come: it reads one form more, in which chats have an argument more, and it has one task more.
NEWER = """
from aegis_workers import tasks
from aegis_workers.celery import app
from aegis_workers.dispatch import inputs

inputs.VERSION = 2
run = tasks.Chat.run

def run_newer(self, messages, options=None, stream=False, version=2, tone=None):
    return {**run(self, messages, options, stream, version), "tone": tone}

tasks.chat.run = run_newer.__get__(tasks.chat)
tasks.chat.__trace__ = None

@app.task(name="aegis.summarise")
def summarise(text, version=2):
    return {"summary": len(text)}
"""


def newer(place: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a worker of the version to come."""
    folder.mkdir()
    (folder / "version_to_come.py").write_text(NEWER)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    place.start_workers("chat", options=("--include", "version_to_come"))


def send(place: Installation, name: str, **kwargs: Any) -> AsyncResult:
    return place.producer.send_task(name, kwargs=kwargs, queue="chat")


@pytest.mark.timeout(180)
def test_an_old_worker_leaves_what_it_cannot_read_to_a_new_one_and_both_read_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with installed(tmp_path, "chat", llm_engine_mode="vllm") as place:
        later = [send(place, "aegis.chat", messages=HELLO, version=2, tone="kind") for _ in range(5)]
        unknown = [send(place, "aegis.summarise", text="Five.", version=2) for _ in range(2)]
        eventually(lambda: "message.left_to_newer" in place.worker_logs())
        assert place.chat().get(timeout=20)["status"] == "ok"  # what it can read does not wait behind them for ever
        assert {one.state for one in (*later, *unknown)} == {"PENDING"}

        newer(place, tmp_path / "newer", monkeypatch)
        assert [one.get(timeout=60)["tone"] for one in later] == ["kind"] * 5
        assert [one.get(timeout=60) for one in unknown] == [{"summary": 5}] * 2
        old = [place.chat() for _ in range(20)]
        assert Counter(one.get(timeout=60)["status"] for one in old) == {"ok": 20}
        eventually(lambda: place.redis.llen("chat") == 0 and not place.redis.keys(f"{keys.held('')}*"))
    assert "Traceback" not in place.worker_logs()


@pytest.mark.timeout(120)
def test_a_message_that_no_worker_can_read_fails_when_its_time_is_up_and_says_why(tmp_path: Path) -> None:
    with installed(tmp_path, "chat", llm_engine_mode="vllm", chat_deadline_s=3.0) as place:
        later = send(place, "aegis.chat", messages=HELLO, version=2, tone="kind")
        unknown = send(place, "aegis.summarise", text="Five.", version=2)
        with pytest.raises(Exception, match="message version 2 is not known here: this worker reads versions 1 to 1") as caught:
            later.get(timeout=30)
        assert InvalidInput.__name__ in repr(caught.value) or caught.type is InvalidInput
        with pytest.raises(Exception, match=r"aegis\.summarise"):
            unknown.get(timeout=30)
