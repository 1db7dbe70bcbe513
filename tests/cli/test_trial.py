"""What a trial says of the items that were not tried."""

from pathlib import Path
from typing import TextIO

import answered
import pytest

from aegis_workers.cli import trial, watch
from aegis_workers.jobs.local import LocalDesk
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms
from aegis_workers.jobs.view import View
from aegis_workers.outcome import Status
from aegis_workers.settings import Settings
from aegis_workers.state.job_totals import Totals


@pytest.fixture
def tried(tmp_path: Path) -> View:
    """Ten items, one a second, of which each took an engine two seconds."""
    settings = Settings(_env_file=None, redis_url="redis://127.0.0.1:1/0", data_dir=tmp_path)
    job = answered.finished(settings, *[Status.OK] * 10)
    with LocalDesk(settings) as desk:
        view = desk.find(job.id)
    totals = Totals(prompt_tokens=1000, completion_tokens=500, attempts=10, calls={"vllm": 10}, engine_ms={"vllm": 20_000})
    return view.model_copy(update={"items_per_s": 1.0, "totals": totals})


def test_the_rest_is_reckoned_by_the_rate_and_by_a_full_engine(tried: View) -> None:
    settings = Settings(_env_file=None, vllm_limit=10)
    assert trial.rest_s(tried, 300) == pytest.approx(300)
    assert trial.least_s(tried, 300, settings) == pytest.approx(60)
    said = "\n".join(trial._estimate(tried, 300, settings))
    assert "The other 300 take about 5 min at the rate of these (1.0 items/s)." in said
    assert "with every slot of it busy the others take 1 min" in said
    assert "about 30,000 tokens read and 15,000 written" in said
    assert "every slot" not in "\n".join(trial._estimate(tried, 300, Settings(_env_file=None, vllm_limit=1)))


def test_nothing_is_reckoned_where_there_is_nothing_left(tried: View) -> None:
    assert list(trial._estimate(tried, 0, Settings(_env_file=None)))[-1] == "That was all of the input."


def test_a_trial_is_a_job_that_never_stops_early_and_nothing_else_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(_env_file=None, redis_url="redis://127.0.0.1:1/0", data_dir=tmp_path)
    spool = Spool(tmp_path)

    def have_it_done(_: LocalDesk, job_id: str, __: TextIO) -> int:
        answered.answer(spool.open(job_id), {0: Status.OK, 1: Status.FAILED}, message="no\x1b[31m such model")
        answered.end(spool.open(job_id))
        return 0

    monkeypatch.setattr(watch, "follow", have_it_done)
    with LocalDesk(settings) as desk:
        assert trial.run(desk, Items(items=["one", "two", "three"]), Terms(), 2, settings, as_json=False) == 0
    (job_id,) = spool.ids()
    assert (spool.open(job_id).manifest.items, spool.open(job_id).manifest.stop_share) == (2, 1.0)
    said = capsys.readouterr().out
    assert "The other 1 take about" in said
    assert "no [31m such model" in said  # nothing that steers the terminal


def test_the_first_items_are_taken_and_the_others_are_counted() -> None:
    taken = iter(range(7))
    head = trial.Head(Items(items=(str(number) for number in taken), name="numbers"), 3)
    assert (list(head), head.name) == (["0", "1", "2"], "numbers (the first 3)")
    assert head.rest() == 4
    assert trial.Head(Items(items=["a"]), 3).rest() == 1  # none of them was read
