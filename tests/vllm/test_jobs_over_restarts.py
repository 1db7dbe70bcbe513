"""A job whose server is killed and started again under load."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema_rs
from installation import eventually
from job_place import JobPlace, ids, lines, served
from serving import SLOTS, Server

from aegis_workers.jobs.journal import State

ITEMS = 500
LIKELY = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["person", "place", "thing"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["kind", "count"],
    "additionalProperties": False,
}


def test_every_item_of_a_job_has_its_one_line_while_the_server_is_killed_twice(
    tmp_path: Path, server: Server, real: dict[str, Any]
) -> None:
    names = [f"text-{number}" for number in range(ITEMS)]
    with served(tmp_path, fallback="hold", window_calls=256, **real) as here:
        here.start_controller()
        job = here.submit(((name, f"The text {name}.") for name in names), schema=LIKELY)

        begun_on(here, server, job_lines=ITEMS // 5, job_id=job.id)
        server.kill()
        first = len(lines(job))
        server.start()
        begun_on(here, server, job_lines=first + ITEMS // 5, job_id=job.id)
        server.kill_engine_core()
        eventually(lambda: not server.is_healthy(), within_s=180)
        second = len(lines(job))
        server.start()

        here.await_state(job, State.COMPLETED, within_s=300)
        found = lines(job)
        assert first < second < ITEMS
        assert ids(found) == Counter(names)
        assert {line["status"] for line in found} == {"ok"}
        for line in found:
            jsonschema_rs.validate(LIKELY, line["data"])
        # What was in flight was asked again, and no attempt was spent.
        assert {line["attempts"] for line in found} == {1}
        last = job.journal.last()
        assert (last.counts, (last.totals or {})["calls:vllm"]) == ({"ok": ITEMS}, ITEMS), json.dumps(last.totals)
        assert server.in_flight() == 0


def begun_on(here: JobPlace, server: Server, *, job_lines: int, job_id: str) -> None:
    """Returns when there are so many lines and the engine has its slots full, or nearly."""
    job = here.spool.open(job_id)
    eventually(lambda: len(lines(job)) > job_lines and server.in_flight() >= SLOTS - 8, within_s=180)
