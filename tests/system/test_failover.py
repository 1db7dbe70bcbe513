"""Sentinels choose another master: the system follows it, and what a job lost there is done again."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import guarded_redis
import pytest
from guarded_redis import Watched
from installation import Installation, eventually
from job_place import ids, job_place, lines, texts

from aegis_workers.jobs.journal import State
from aegis_workers.state import keys

pytestmark = pytest.mark.timeout(300)

ITEMS = 1500
# What Sentinels take to agree, and a busy machine for all the rest.
WITHIN_S = 60.0


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with guarded_redis.watched(tmp_path / "redis") as found:
        yield found


def calls_in(place: Installation, mode: str) -> bool:
    """Whether a call is made in this mode now."""
    return bool(place.chat().get(timeout=WITHIN_S)["mode"] == mode)


def follows_the_mode(place: Installation) -> None:
    """A raw write at the new master reaches the next call in far less time than the memory of the mode lives."""
    for mode in ("auto", "vllm"):
        place.redis.set(keys.MODE, mode)
        eventually(partial(calls_in, place, mode), within_s=15)


@pytest.mark.parametrize("lags", [False, True], ids=["a replica that has all", "a replica that lags"])
def test_a_killed_master_costs_a_job_seconds_and_no_line(
    lags: bool,  # noqa: FBT001 - a parameter of the test
    watched: Watched,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    access = {
        "redis_url": watched.url,
        "redis_master": "aegis",
        "redis_sentinel_password": guarded_redis.SENTINEL_PASSWORD,
    }
    with job_place(tmp_path, workers=2, access=access) as jobs:
        place = jobs.place
        place.start_workers("chat")
        jobs.start_controller()
        assert place.chat().get(timeout=WITHIN_S)["mode"] == "vllm"
        job = jobs.submit(texts(ITEMS))
        jobs.await_lines(job, 100, within_s=WITHIN_S)
        if lags:
            watched.cut_replication()
            seen = len(lines(job))
            jobs.await_lines(job, seen + 200, within_s=WITHIN_S)

        watched.kill_master()
        killed_at = time.monotonic()
        before = len(lines(job))
        assert before < ITEMS
        eventually(lambda: watched.chosen() == watched.replica, within_s=WITHIN_S)
        chosen_s = time.monotonic() - killed_at
        jobs.await_lines(job, min(ITEMS, before + 100), within_s=WITHIN_S)
        recovered_s = time.monotonic() - killed_at
        jobs.await_state(job, State.COMPLETED, within_s=2 * WITHIN_S)

        assert ids(lines(job)) == {f"doc-{number}": 1 for number in range(ITEMS)}
        assert {line["status"] for line in lines(job)} <= {"ok", "empty", "partial"}
        follows_the_mode(place)
        assert place.cli("mode", "get").returncode == 0
        said = place.worker_logs() + jobs.logs()
    record_property("failover", f"lags={lags} chosen {chosen_s:.1f} s, recording again {recovered_s:.1f} s")
    assert guarded_redis.SENTINEL_PASSWORD not in said
    assert "planted" not in said
