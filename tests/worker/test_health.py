import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from aegis_workers.worker import health
from aegis_workers.worker.health import Health, Verdict
from aegis_workers.worker.signs import Signs

LIMIT_S = 60.0
WELL = Signs(
    at=1000.0,
    turned_at=999.5,
    connected=True,
    queues=("chat",),
    taken=7,
    held=0,
    stopping=False,
    queued=0,
    answering_since=10.0,
)
SAID = Health(node="chat@host", at=50.0, live=True, ready=True, reason=None, stopping=False, queue="chat", worker_id="w", pid=1)


def judged(**signs: object) -> Verdict:
    return health.judge(replace(WELL, **signs), limit_s=LIMIT_S)  # type: ignore[arg-type]


def test_a_worker_that_turns_and_has_redis_is_ready() -> None:
    assert judged() == Verdict(live=True, ready=True)


@pytest.mark.parametrize(
    ("signs", "live", "words"),
    [
        ({"stopping": True}, True, "stopping"),
        ({"stopping": True, "turned_at": 0.0}, True, "stopping"),
        ({"queued": None, "answering_since": None}, True, "Redis does not answer"),
        ({"queued": None, "answering_since": None, "turned_at": 0.0}, True, "Redis does not answer"),
        ({"connected": False, "turned_at": 980.0}, True, "connecting to Redis"),
        ({"connected": False, "turned_at": 0.0, "answering_since": 995.0}, True, "connecting to Redis"),
        ({"connected": False, "turned_at": 900.0}, False, "has not turned for 100 s although Redis answers"),
        ({"turned_at": 990.0}, True, "has not turned for 10 s"),
        ({"turned_at": 900.0}, False, "has not turned for 100 s"),
        ({"failed": True, "stopping": True}, False, "it ends itself"),
        ({"refused": True}, True, "Redis gives no messages"),
        ({"queues": ()}, True, "consumes from no queue"),
    ],
)
def test_a_worker_that_is_not_ready_says_why(signs: dict[str, object], live: bool, words: str) -> None:  # noqa: FBT001 - a table
    verdict = judged(**signs)
    assert (verdict.live, verdict.ready) == (live, False)
    assert verdict.reason is not None
    assert words in verdict.reason


def test_a_task_that_runs_on_the_main_loop_does_not_make_a_worker_look_dead() -> None:
    assert judged(turned_at=0.0, inline=True, held=1).ready
    assert not judged(turned_at=0.0, inline=True).live


def test_a_file_that_is_no_longer_written_means_that_nothing_is_well() -> None:
    assert SAID.verdict(50.0 + health.STALE_S) == Verdict(live=True, ready=True)
    stale = SAID.verdict(51.0 + health.STALE_S)
    assert (stale.live, stale.ready) == (False, False)
    assert stale.reason == "it has said nothing for 11 s: it was killed, or it hangs"


def test_what_was_written_is_read_and_what_was_removed_is_not(tmp_path: Path) -> None:
    other = replace(SAID, node="extraction/a%@host", waiting={"its turn": 2})
    health.write(tmp_path, SAID)
    health.write(tmp_path, other)
    (tmp_path / "foreign.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    assert list(health.read_all(tmp_path)) == [SAID, other]
    health.remove(tmp_path, other.node)
    assert list(health.read_all(tmp_path)) == [SAID]
    health.remove(tmp_path, other.node)


def test_a_reader_never_meets_half_a_file(tmp_path: Path) -> None:
    health.write(tmp_path, SAID)
    done = threading.Event()

    def write() -> None:
        for number in range(300):
            health.write(tmp_path, replace(SAID, waiting={"its turn " * 2000: number}))
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        assert len(list(health.read_all(tmp_path))) == 1
    thread.join()
    assert os.listdir(tmp_path) == ["chat@host.json"]  # noqa: PTH208


def test_a_folder_that_can_be_made_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "health"
    assert health.refused(folder) is None
    assert folder.is_dir()
    assert health.refused(None) is None


def test_a_folder_that_cannot_be_there_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reason = health.refused(tmp_path / "file" / "health")
    assert reason == f"AEGIS_HEALTH_DIR={tmp_path}/file/health: no folder can be there (Not a directory)"
