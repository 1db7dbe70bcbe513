"""What becomes of a batch of a job's chunks whose worker died."""

import json
from dataclasses import asdict
from typing import Any

import pytest
import redis
import redis.asyncio
from fed_jobs import arguments, message, span

from aegis_workers.celery import app
from aegis_workers.state import aside, envelope, keys
from aegis_workers.state.envelope import Death
from aegis_workers.state.held import End
from aegis_workers.state.suspects import Suspect
from aegis_workers.worker import coroner, poison
from aegis_workers.worker.coroner import Coroner
from aegis_workers.worker.poison import Work

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    app.loader.import_default_modules()
    monkeypatch.setattr(coroner, "current_app", app)


KWARGS = arguments("job_1", [span(number, f"text {number}") for number in range(3)])
ID = "job_1.a"


def after(deaths: int, kwargs: dict[str, Any]) -> bytes:
    """The message, after so many deaths."""
    raw = message(ID, kwargs)
    for number in range(deaths):
        raw = envelope.again(raw, Death(worker=f"w{number}", at=1.0))
    return raw


@pytest.mark.parametrize("chunks", [3, 1])
async def test_a_chunk_alone_at_the_third_death_is_set_aside_and_its_batch_goes_back(
    client: redis.Redis, async_client: redis.asyncio.Redis, chunks: int
) -> None:
    item = chunks - 1
    suspect = Suspect(worker_id="w2", task_id=ID, item=item)
    client.set(keys.SUSPECT, json.dumps(asdict(suspect)))
    raw = after(2, {**KWARGS, "chunks": KWARGS["chunks"][:chunks]})

    settlement = await Coroner(async_client).verdict(raw, Death(worker="w2", at=1.0))

    assert settlement.end is End.FRONT
    (entry,) = aside.read_all(client)
    assert (entry.entry_id, entry.task, entry.custom_id) == (f"{ID}:{item}", "aegis.read_chunks", f"item {item}")
    assert (entry.job_id, entry.kwargs["chunks"]) == ("job_1", [KWARGS["chunks"][item]])
    assert "alone at the 3rd death" in str(client.hget(keys.answers(ID), aside.mark(item)))
    assert not client.exists(keys.SUSPECT)


def test_what_a_result_says_was_set_aside_is_an_entry_of_its_chunk() -> None:
    work = Work(task_id=ID, task="aegis.read_chunks", queue="extraction", kwargs=KWARGS)
    (entry,) = poison.of_result(work, {"recorded": 3, "set_aside": [{"item": 1, "message": "it kills engines"}]})
    assert (entry.entry_id, entry.kwargs["chunks"]) == (f"{ID}:1", [KWARGS["chunks"][1]])
    assert entry.history == [{"what": "it kills engines"}]
