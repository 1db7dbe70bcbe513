"""What else happens to a running job; `tests/chaos/test_job_storms.py` has the faults."""

import signal
from collections import Counter
from collections.abc import Iterator

import pytest
from installation import eventually
from job_place import JobPlace, ids, job_place, lines, texts

from aegis_workers.jobs.journal import Entry, Event, State
from aegis_workers.routing import Engine
from aegis_workers.state import keys

pytestmark = pytest.mark.timeout(120)

ITEMS = 600
AT_LEAST = 20
LIMIT = 64
# So that chunks do not end in the order in which they began.
VARIED = ("--call-seconds", "0.2", "--call-seconds-cv", "1", "--slots", "256")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobPlace]:
    with job_place(tmp_path_factory.mktemp("jobs"), vllm=VARIED, window_calls=256, vllm_limit=LIMIT) as place:
        yield place


@pytest.fixture
def here(shared: JobPlace) -> Iterator[JobPlace]:
    """The installation with no controller running."""
    shared.place.behave(Engine.VLLM)
    yield shared
    shared.stop_controllers()


def test_a_leader_that_is_told_to_stop_hands_over_at_once(here: JobPlace) -> None:
    before = here.asked()
    first = here.start_controller()
    eventually(lambda: "controller.leads" in first.log_text())
    second = here.start_controller()
    job = here.submit(texts(ITEMS))
    here.await_lines(job, LIMIT)
    eventually(lambda: here.place.in_flight(Engine.VLLM) >= AT_LEAST)
    first.popen.send_signal(signal.SIGTERM)
    assert first.popen.wait(20) == 0
    assert here.place.redis.get(keys.CONTROLLER) is None or "controller.leads" in second.log_text()
    here.await_state(job, State.COMPLETED, within_s=60)
    assert ids(lines(job)) == Counter(custom_id for custom_id, _ in texts(ITEMS))
    assert {line["status"] for line in lines(job)} == {"ok"}
    assert here.asked() - before == ITEMS


def test_cancelling_closes_the_calls_and_keeps_the_lines(here: JobPlace) -> None:
    here.place.behave(Engine.VLLM, slow_s=30)
    here.start_controller()
    job = here.submit(texts(ITEMS))
    eventually(lambda: here.place.in_flight(Engine.VLLM) >= AT_LEAST)
    aborted = here.place.stats(Engine.VLLM)["aborted"]
    job.journal.change(lambda _: Entry(event=Event.CANCELLING, state=State.CANCELLING))
    here.await_state(job, State.CANCELLED)
    eventually(lambda: here.place.in_flight(Engine.VLLM) == 0)
    assert here.place.stats(Engine.VLLM)["aborted"] - aborted >= AT_LEAST
    assert ids(lines(job)) == Counter(custom_id for custom_id, _ in texts(ITEMS))


def test_long_texts_are_merged_from_chunks_that_end_in_any_order(here: JobPlace) -> None:
    here.start_controller()
    documents = [(f"doc-{number}", f"Ada Stone met Bo Hill in town {number}. " * 40) for number in range(60)]
    before = here.asked()
    job = here.submit(documents, options={"chunk_tokens": 50, "chunk_overlap_tokens": 0})
    here.await_state(job, State.COMPLETED, within_s=60)
    found = lines(job)
    assert ids(found) == Counter(custom_id for custom_id, _ in documents)
    assert here.asked() - before == job.manifest.chunks > 60 * 5
    for line in found:
        places = [(call["start"], call["end"]) for call in line["calls"]]
        assert places == sorted(places)
        assert places[-1][1] == len(dict(documents)[line["custom_id"]].rstrip())


def test_a_job_whose_time_is_up_ends_with_a_line_for_every_item(here: JobPlace) -> None:
    here.place.behave(Engine.VLLM, slow_s=30)
    here.start_controller()
    job = here.submit(texts(ITEMS), expires_s=3)
    here.await_state(job, State.EXPIRED)
    eventually(lambda: here.place.in_flight(Engine.VLLM) == 0)
    found = lines(job)
    assert ids(found) == Counter(custom_id for custom_id, _ in texts(ITEMS))
    assert {line["status"] for line in found} == {"expired"}


def test_a_job_that_fails_too_often_stops_and_goes_on_when_it_is_resumed(here: JobPlace) -> None:
    here.place.behave(Engine.VLLM, error_status=404, error_message="no such model")
    here.start_controller()
    before = here.place.stats(Engine.VLLM)["requests"]
    job = here.submit(texts(ITEMS), stop_window=50)
    here.await_state(job, State.STOPPED)
    assert "no such model" in str(job.journal.last().reason)
    assert "no such model" not in here.logs()
    eventually(lambda: here.in_motion(job) == 0)
    assert here.place.stats(Engine.VLLM)["requests"] - before < ITEMS
    here.place.behave(Engine.VLLM)
    job.journal.change(lambda _: Entry(event=Event.RESUMED, state=State.IN_PROGRESS))
    here.await_state(job, State.COMPLETED, within_s=60)
    assert ids(lines(job)) == Counter(custom_id for custom_id, _ in texts(ITEMS))
    assert here.place.stats(Engine.VLLM)["requests"] - before == ITEMS
