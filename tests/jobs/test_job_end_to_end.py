"""A job from its submission to its results, through real processes."""

from pathlib import Path

from job_place import ids, job_place, lines, texts

from aegis_workers.jobs.journal import State


def test_every_item_of_a_job_has_one_line(tmp_path: Path) -> None:
    with job_place(tmp_path) as here:
        before = here.asked()
        here.start_controller()
        job = here.submit(texts(300))
        here.await_state(job, State.COMPLETED)
        found = lines(job)
        assert ids(found) == dict.fromkeys((f"doc-{number}" for number in range(300)), 1)
        assert {line["status"] for line in found} == {"ok"}
        assert here.asked() - before == 300
        assert here.state(job) is None
