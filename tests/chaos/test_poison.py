"""Work that kills what runs it: it is set aside and does not hold up the rest."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import storm
from fed_jobs import FedJob, span
from installation import Installation, eventually
from kills_its_worker import MARK

from aegis_workers.local.process import ProcessFailed
from aegis_workers.routing import Engine

pytestmark = pytest.mark.timeout(240)

POISON = f"Ada Stone saw {MARK} in Rome."
GOOD = [f"Ada Stone met Bo Hill in town {number}." for number in range(12)]
SUPERVISED_S = 0.2


@contextmanager
def supervised(place: Installation, *modules: str) -> Iterator[None]:
    """Starts another worker for each that dies, as a supervisor does."""
    over = threading.Event()

    def supervise() -> None:
        while not over.wait(SUPERVISED_S):
            if not any(worker.is_alive() for worker in place.workers):
                with suppress(ProcessFailed):  # it died before it was ready
                    storm.start_workers(place, 1, *modules)

    thread = threading.Thread(target=supervise)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def listed(place: Installation) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(place.cli("aside", "list", "--json").stdout)
    return entries


def test_an_item_that_kills_its_worker_is_set_aside_and_the_rest_is_done(tmp_path: Path) -> None:
    with storm.hold(tmp_path, "kills_its_worker") as place, supervised(place, "kills_its_worker"):
        others = [place.send("aegis.extract", text=text) for text in GOOD]
        items = [{"custom_id": str(number), "text": text} for number, text in enumerate([*GOOD[:3], POISON, *GOOD[3:6]])]
        batch = place.send("aegis.extract_batch", items=items)

        lines = batch.get(timeout=120)["results"]

        assert [line["status"] for line in lines] == ["ok"] * 3 + ["failed"] + ["ok"] * 3
        assert lines[3]["error"]["class"] == "poison"
        assert "alone at the 3rd death of a worker" in lines[3]["error"]["message"]
        assert {result.get(timeout=60)["status"] for result in others} == {"ok"}
        (entry,) = listed(place)
        assert (entry["entry_id"], entry["custom_id"]) == (f"{batch.id}:3", "3")
        assert [event["what"] for event in entry["history"]] == ["its worker died"] * 3
        assert MARK not in place.cli("aside", "list").stdout
        assert MARK not in place.worker_logs()


@pytest.mark.long
def test_a_chunk_of_a_job_that_kills_its_worker_is_recorded_and_set_aside(tmp_path: Path) -> None:
    with storm.hold(tmp_path, "kills_its_worker") as place, supervised(place, "kills_its_worker"):
        job = FedJob(place.settings).open()
        job.feed([span(0, POISON)])
        job.feed([span(number, text) for number, text in enumerate(GOOD, 1)])

        eventually(lambda: job.is_done, within_s=120)

        assert [line["status"] for line in job.lines] == ["failed"] + ["ok"] * len(GOOD)
        assert job.lines[0]["error"]["class"] == "poison"
        (entry,) = listed(place)
        assert (entry["entry_id"], entry["custom_id"]) == (f"{job.batch_ids[0]}:0", "item 0")
        assert MARK not in place.worker_logs()


@pytest.mark.long
def test_a_text_that_kills_its_worker_ends_as_set_aside_and_is_done_once_it_is_enqueued_again(tmp_path: Path) -> None:
    with storm.hold(tmp_path, "kills_its_worker") as place:
        with supervised(place, "kills_its_worker"):
            poison = place.send("aegis.extract", text=POISON)
            with pytest.raises(Exception, match="alone at the 3rd death of a worker"):
                poison.get(timeout=120)
            (entry,) = listed(place)
            assert entry["entry_id"] == poison.id
            eventually(lambda: place.redis.llen("extraction") == 0)
        for worker in place.workers:
            worker.popen.kill()
        storm.start_workers(place, 1)

        assert f"Enqueued {poison.id}." in place.cli("aside", "requeue", poison.id).stdout

        again = place.producer.AsyncResult(poison.id)
        assert eventually(lambda: again.state == "SUCCESS")
        assert listed(place) == []


def test_a_call_that_kills_engines_is_set_aside(tmp_path: Path) -> None:
    with storm.hold(tmp_path, workers=1) as place:
        place.behave(Engine.VLLM, drop_after_chunks=1, times=3)
        poison = place.send("aegis.extract", text=POISON)
        with pytest.raises(Exception, match="in flight at 3 crashes of engines"):
            poison.get(timeout=60)
        (entry,) = listed(place)
        assert entry["entry_id"] == poison.id
