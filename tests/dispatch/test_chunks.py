"""Chunks of bulk jobs: each has an outcome of its own, recorded once."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dispatch_place import Place
from fake_engine import FakeEngine
from fed_jobs import arguments, request, span
from kept_answers import KeptAnswers
from recorded_chunks import RecordedChunks
from redis.exceptions import ResponseError
from settling import begun, ended, settled
from structlog.testing import capture_logs
from suspects_here import SuspectsHere

from aegis_workers.dispatch import attempts, batches
from aegis_workers.dispatch.calls import Calls
from aegis_workers.dispatch.chunks import Chunks
from aegis_workers.dispatch.delivery import Delivery
from aegis_workers.engines.base import EngineClient
from aegis_workers.errors import EngineBusy, EngineLost, InvalidInput, RequestRefused, WaitedTooLong, WorkerStopping
from aegis_workers.extraction import document
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.state import connection
from aegis_workers.state.job_state import State
from aegis_workers.state.job_totals import Totals
from aegis_workers.state.recording import Recording

pytestmark = pytest.mark.anyio

SETTINGS = Settings(_env_file=None, vllm_model="big", ollama_model="small")
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
FIRST = Delivery(task_id="job_1.a")
SUSPECT = Delivery(task_id="job_1.a", again=True, deaths=2)
SPANS = [span(number, f"text {number}") for number in range(3)]


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BUSY_FIRST_S", "_LOST_FIRST_S"):
        monkeypatch.setattr(attempts, name, 0.0)
    monkeypatch.setattr(connection, "RETRY_S", 0.0)


@pytest.fixture
async def place(anyio_backend: str) -> AsyncIterator[Place]:
    del anyio_backend
    async with Place(mode=Mode.VLLM).open() as place:
        yield place


@pytest.fixture
def store() -> RecordedChunks:
    return RecordedChunks()


async def nobody(_client: EngineClient, _error: EngineLost) -> None:
    """Nobody else has to know."""


async def reading(
    place: Place,
    store: RecordedChunks,
    chunks: list[dict[str, Any]],
    delivery: Delivery = FIRST,
    *,
    suspects: SuspectsHere | None = None,
    kept: KeptAnswers | None = None,
    **fields: Any,
) -> asyncio.Task[dict[str, Any]]:
    """The batch on its way, as far as it has come."""
    calls = Calls(place.admission, suspects or SuspectsHere(), timeout_s=60, report_lost=nobody)
    batch = batches.read(arguments("job_1", chunks, **{"schema": SCHEMA, **fields}), SETTINGS)
    return await begun(Chunks(calls, store, kept or KeptAnswers()).read(batch, delivery))


def vllm(place: Place) -> FakeEngine:
    (engine,) = place.engines[Engine.VLLM]
    return engine


async def test_each_chunk_is_recorded_when_it_ends_and_the_last_one_finishes_the_batch(
    place: Place, store: RecordedChunks
) -> None:
    task = await reading(place, store, SPANS)
    for answered, number in enumerate((1, 0, 0), 1):
        vllm(place).open[number].answer('{"n": 1}')
        await settled()
        assert (len(store.outcomes), bool(store.finished)) == (answered, answered == 3)
    assert (await task)["recorded"] == 3
    assert [outcome.chunk for outcome in store.outcomes] == [1, 0, 2]
    assert store.finished == ["job_1.a"]
    assert store.lines[1]["custom_id"] == "item 1"
    assert store.lines[1]["data"] == {"n": 1}


async def test_a_line_says_all_that_a_batch_of_documents_would_say(place: Place, store: RecordedChunks) -> None:
    chunk = span(7, "text", metadata={"page": 3})
    task = await reading(place, store, [chunk])
    vllm(place).open[0].answer('{"n": 1}')
    await task
    assert store.lines[7] == {
        "custom_id": "item 7",
        "status": "ok",
        "data": {"n": 1},
        "error": None,
        "engine": "vllm",
        "mode": "vllm",
        "attempts": 1,
        "usage": {"prompt_tokens": 3, "completion_tokens": 7},
        "calls": [
            {
                "start": 0,
                "end": 4,
                "status": "ok",
                "error": None,
                "engine": "vllm",
                "mode": "vllm",
                "reason": "mode vllm prefers vLLM for extraction",
                "attempts": 1,
            }
        ],
        "metadata": {"page": 3},
    }
    (outcome,) = store.outcomes
    costs = outcome.totals
    expected = Totals(prompt_tokens=3, completion_tokens=7, attempts=1, calls={"vllm": 1}, engine_ms=costs.engine_ms)
    assert costs == expected
    assert costs.engine_ms.keys() == {"vllm"}


async def test_the_time_at_the_engine_is_that_of_all_attempts(place: Place, store: RecordedChunks) -> None:
    task = await reading(place, store, SPANS[:1])
    for text in ("no JSON", '{"n": 1}'):
        await asyncio.sleep(0.05)
        vllm(place).open[0].answer(text)
        await settled()
    await task
    assert store.lines[0]["attempts"] == 2
    assert 90 <= store.outcomes[0].totals.engine_ms["vllm"] < 5000


async def test_chunks_that_have_an_outcome_are_not_asked_for_again(place: Place, store: RecordedChunks) -> None:
    first = await reading(place, store, SPANS)
    vllm(place).open[1].answer('{"n": 1}')
    await settled()
    await ended(first)
    second = await reading(place, store, SPANS, Delivery(task_id="job_1.a", again=True))
    assert len(vllm(place).open) == 2
    for asked in list(vllm(place).open):
        asked.answer('{"n": 2}')
    assert (await second)["recorded"] == 2
    third = await reading(place, store, SPANS, Delivery(task_id="job_1.a", again=True))
    assert (await third)["recorded"] == 0
    assert store.finished == ["job_1.a"] * 2
    assert len(vllm(place).asked) == 5


@pytest.mark.parametrize(
    ("state", "known", "words"),
    [
        (None, False, "Redis does not know the job"),
        (State.CLOSING, True, "takes no outcomes"),
        (State.OPEN, False, "finished, or fed again"),
    ],
)
async def test_a_batch_that_nobody_needs_ends_quietly(
    place: Place, store: RecordedChunks, state: State | None, *, known: bool, words: str
) -> None:
    store.state, store.known = state, known
    with capture_logs() as logs:
        assert (await (await reading(place, store, SPANS)))["recorded"] == 0
    (line,) = (line for line in logs if line["event"] == "batch.dropped")
    assert words in line["reason"]
    assert vllm(place).asked == []


@pytest.mark.parametrize("answer", [Recording.CLOSING, Recording.GONE])
async def test_a_job_that_closes_has_its_calls_closed(place: Place, store: RecordedChunks, answer: Recording) -> None:
    task = await reading(place, store, SPANS)
    store.answer = answer
    vllm(place).open[0].answer('{"n": 1}')
    assert (await task)["recorded"] == 0
    assert (len(vllm(place).asked), vllm(place).open) == (3, [])
    assert (store.outcomes, store.finished) == ([], [])


async def test_a_worker_that_was_declared_dead_goes_no_further(place: Place, store: RecordedChunks) -> None:
    task = await reading(place, store, SPANS)
    store.answer = Recording.DEAD
    vllm(place).open[0].answer('{"n": 1}')
    with pytest.raises(WorkerStopping):
        await task
    assert (vllm(place).open, store.outcomes) == ([], [])


async def test_no_chunk_fails_another(place: Place, store: RecordedChunks) -> None:
    task = await reading(place, store, SPANS)
    refused, invalid, right = vllm(place).open
    refused.fail(RequestRefused("vLLM refused the request (HTTP 400): why", words="too long"))
    right.answer('{"n": 1}')
    invalid.answer("no JSON")
    for _ in range(2):
        await settled()
        vllm(place).open[0].answer("no JSON")
    assert (await task)["recorded"] == 3
    assert [store.lines[number]["status"] for number in range(3)] == ["failed", "invalid", "ok"]
    assert store.lines[0]["error"] == {"class": "item-fatal", "message": "vLLM refused the request (HTTP 400): why: too long"}
    assert [outcome.status.value for outcome in sorted(store.outcomes, key=lambda one: one.chunk)] == ["failed", "invalid", "ok"]


async def test_chunks_of_an_expired_job_are_not_asked_for(place: Place, store: RecordedChunks) -> None:
    await (await reading(place, store, SPANS, expires_at=time.time() - 1))
    assert vllm(place).asked == []
    assert {line["status"] for line in store.lines.values()} == {"expired"}
    assert store.lines[0]["error"]["message"] == "the job expired: no worker had come to it"


async def test_a_job_that_expires_while_it_is_read_has_its_calls_closed(place: Place, store: RecordedChunks) -> None:
    task = await reading(place, store, SPANS[:1], expires_at=time.time() + 0.1)
    await task
    assert vllm(place).asked[0].closed
    assert store.lines[0]["error"]["class"] == "deadline"
    assert "vLLM had not answered" in store.lines[0]["error"]["message"]


async def test_a_schema_that_no_engine_can_follow_fails_every_chunk(place: Place, store: RecordedChunks) -> None:
    await (await reading(place, store, SPANS, schema={"type": "object", "uniqueItems": True}))
    assert {line["status"] for line in store.lines.values()} == {"failed"}
    assert store.lines[0]["error"]["class"] == "item-fatal"
    assert store.finished == ["job_1.a"]


async def test_an_engine_that_is_not_configured_fails_the_chunks_of_a_job_that_stays_on_it(store: RecordedChunks) -> None:
    async with Place(mode=Mode.VLLM, replicas={Engine.OLLAMA: 0}).open() as place:
        await (await reading(place, store, SPANS, engine="ollama"))
    assert {line["status"] for line in store.lines.values()} == {"failed"}
    assert "the job stays on Ollama, which is not configured" in store.lines[0]["error"]["message"]


@pytest.mark.parametrize("told_by", ["message", "job"])
async def test_a_job_that_stays_on_an_engine_runs_there(place: Place, store: RecordedChunks, told_by: str) -> None:
    store.engine = "ollama" if told_by == "job" else None
    task = await reading(place, store, SPANS[:1], engine="ollama" if told_by == "message" else None)
    (await place.asked(Engine.OLLAMA)).answer('{"n": 1}')
    await task
    assert (store.lines[0]["engine"], store.lines[0]["mode"]) == ("ollama", "vllm")
    assert store.lines[0]["calls"][0]["reason"] == "the job stays on Ollama"


async def test_an_unforeseen_error_is_the_outcome_of_its_chunk_alone(
    place: Place, store: RecordedChunks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("zanzibar")

    monkeypatch.setattr(document, "read", fail)
    task = await reading(place, store, SPANS[:1])
    vllm(place).open[0].answer('{"n": 1}')
    await task
    assert store.lines[0]["status"] == "failed"
    assert "(ZeroDivisionError)" in store.lines[0]["error"]["message"]
    assert "zanzibar" not in store.lines[0]["error"]["message"]
    assert place.admission.in_flight == {}


async def test_what_waited_too_long_goes_back_when_the_rest_is_recorded(store: RecordedChunks) -> None:
    async with Place(mode=Mode.VLLM, limits={Engine.VLLM: 1, Engine.OLLAMA: 1}, longest_wait_s=0.05).open() as place:
        task = await reading(place, store, SPANS)
        await asyncio.sleep(0.2)
        (asked,) = vllm(place).open
        assert not task.done()
        asked.answer('{"n": 1}')
        with pytest.raises(WaitedTooLong):
            await task
    assert [outcome.chunk for outcome in store.outcomes] == [0]
    assert store.finished == []


async def test_a_worker_that_stops_lets_what_is_in_flight_be_recorded(store: RecordedChunks) -> None:
    async with Place(mode=Mode.VLLM, limits={Engine.VLLM: 1, Engine.OLLAMA: 1}).open() as place:
        task = await reading(place, store, SPANS)
        place.admission.close()
        await settled()
        (asked,) = vllm(place).open
        asked.answer('{"n": 1}')
        with pytest.raises(WorkerStopping):
            await task
    assert [outcome.chunk for outcome in store.outcomes] == [0]


async def test_a_redis_that_is_away_is_waited_for(place: Place, store: RecordedChunks) -> None:
    store.away = 3
    task = await reading(place, store, SPANS[:1])
    (await place.asked(Engine.VLLM)).answer('{"n": 1}')
    assert (await task)["recorded"] == 1


async def test_a_redis_that_will_never_answer_is_not_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> None:
        raise ResponseError("NOPERM")

    store = RecordedChunks()
    monkeypatch.setattr(store, "begin_batch", refuse)
    with pytest.raises(ResponseError):
        await (await reading(place, store, SPANS))


async def test_the_chunks_of_a_message_that_saw_two_workers_die_run_one_at_a_time(place: Place, store: RecordedChunks) -> None:
    suspects = SuspectsHere()
    task = await reading(place, store, SPANS, SUSPECT, suspects=suspects)
    for number in range(3):
        assert suspects.seen == [("job_1.a", item) for item in range(number + 1)]
        (asked,) = vllm(place).open
        asked.answer('{"n": 1}')
        await settled()
    assert (await task)["recorded"] == 3


async def test_a_chunk_that_killed_its_workers_is_recorded_and_set_aside(place: Place, store: RecordedChunks) -> None:
    kept = KeptAnswers()
    kept.keep("job_1.a", "aside:1", "it killed three workers")
    task = await reading(place, store, SPANS, SUSPECT, kept=kept)
    for _ in range(2):
        vllm(place).open[0].answer('{"n": 1}')
        await settled()
    assert (await task)["set_aside"] == [{"item": 1, "message": "it killed three workers"}]
    assert store.lines[1]["error"] == {"class": "poison", "message": "it killed three workers"}
    assert [store.lines[number]["status"] for number in range(3)] == ["ok", "failed", "ok"]


async def test_a_chunk_at_three_crashes_of_engines_is_recorded_and_set_aside(place: Place, store: RecordedChunks) -> None:
    task = await reading(place, store, SPANS[:1])
    for _ in range(3):
        (await place.asked(Engine.VLLM)).fail(EngineLost("the connection was closed"))
    result = await task
    assert [found["item"] for found in result["set_aside"]] == [0]
    assert store.lines[0]["error"]["class"] == "poison"


async def test_a_batch_says_in_one_line_what_came_of_it_and_its_calls_say_nothing(place: Place, store: RecordedChunks) -> None:
    with capture_logs() as logs:
        task = await reading(place, store, SPANS)
        for asked in list(vllm(place).open):
            asked.answer('{"n": 1}')
        await task
    told = [line for line in logs if line["log_level"] != "debug"]
    assert [line["event"] for line in told] == ["batch.finished"]
    assert told[0]["chunks"] == {"ok": 3}


CHAT = {"model": "any", "messages": [{"role": "user", "content": "zanzibar"}]}


async def test_a_request_is_answered_in_the_form_of_openai(place: Place, store: RecordedChunks) -> None:
    task = await reading(place, store, [request(5, {**CHAT, "max_completion_tokens": 9, "seed": 1})])
    (asked,) = vllm(place).open
    assert (asked.request.sampling.max_tokens, asked.request.sampling.seed) == (9, 1)
    asked.answer("an answer")
    await task
    line = store.lines[5]
    body = line["response"]["body"]
    assert (line["custom_id"], line["error"], line["response"]["status_code"]) == ("item 5", None, 200)
    assert (body["object"], body["model"]) == ("chat.completion", "big")
    assert body["choices"][0]["message"]["content"] == "an answer"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}
    assert (line["aegis"]["status"], line["aegis"]["engine"], line["aegis"]["attempts"]) == ("ok", "vllm", 1)


async def test_an_answer_that_breaks_its_schema_is_asked_for_twice_more_and_then_an_error(
    place: Place, store: RecordedChunks
) -> None:
    body = {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}
    task = await reading(place, store, [request(0, body)])
    for _ in range(3):
        (await place.asked(Engine.VLLM)).answer('{"n": "no number"}')
    await task
    line = store.lines[0]
    assert (line["response"], line["error"]["code"], line["aegis"]["attempts"]) == (None, "invalid", 3)


@pytest.mark.parametrize(
    ("spoils", "words"),
    [
        ({"stream": True}, "stream"),
        ({"n": 2}, "body.n"),
        ({"tools": []}, "body.tools: not known"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "messages"),
        ({"response_format": {"type": "json_schema"}}, "json_schema is missing"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"not": {}}}}}, "schema"),
        ({"temperature": 3}, "temperature"),
    ],
)
async def test_a_body_that_cannot_be_done_is_an_error_line(
    place: Place, store: RecordedChunks, spoils: dict[str, Any], words: str
) -> None:
    task = await reading(place, store, [request(0, {**CHAT, **spoils}), request(1, CHAT)])
    (await place.asked(Engine.VLLM)).answer("an answer")
    assert (await task)["recorded"] == 2
    error = store.lines[0]["error"]
    assert error["code"] == "item-fatal"
    assert words in error["message"]
    assert "zanzibar" not in error["message"]
    assert store.lines[1]["error"] is None


async def test_a_request_that_every_attempt_fails_is_an_error_line(place: Place, store: RecordedChunks) -> None:
    task = await reading(place, store, [request(0, CHAT)])
    for _ in range(attempts.MAX_ATTEMPTS):
        (await place.asked(Engine.VLLM)).fail(EngineBusy("vLLM could not serve the request now (HTTP 500)", status=500))
    await task
    assert store.lines[0]["error"] == {"code": "transient", "message": "vLLM could not serve the request now (HTTP 500)"}


@pytest.mark.parametrize(
    "spoils",
    [{"job": ""}, {"kind": "other"}, {"chunks": []}, {"chunks": [{"n": 0}]}, {"engine": "other"}, {"expires_at": None}],
)
def test_a_message_that_no_feeder_writes_is_refused(spoils: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        batches.read({**arguments("job_1", SPANS), **spoils}, SETTINGS)
