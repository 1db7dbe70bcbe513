import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from dispatch_place import Place
from redis.exceptions import ConnectionError as RedisConnectionError
from settling import begun, ended, settled
from suspects_here import SuspectsHere

from aegis_workers.completion import Finish, Message, Sampling
from aegis_workers.dispatch import attempts, chats
from aegis_workers.dispatch.calls import Calls
from aegis_workers.dispatch.delivery import Delivery
from aegis_workers.dispatch.inputs import Conversation
from aegis_workers.engines.base import EngineClient, Readiness
from aegis_workers.errors import (
    CallCancelled,
    CallFailed,
    ConfigurationError,
    DeadlineExceeded,
    EngineBusy,
    EngineLost,
    EngineWithdrew,
    RequestRefused,
    StreamInterrupted,
    WorkerStopping,
)
from aegis_workers.routing import Engine, Mode, TaskType
from aegis_workers.state.engine_control import Control, Phase
from aegis_workers.state.streams import Hold

pytestmark = pytest.mark.anyio

VLLM, OLLAMA = Engine.VLLM, Engine.OLLAMA
CHAT = TaskType.CHAT
DELIVERY = Delivery(task_id="a chat")


@dataclass
class FakeWriter:
    """A stream in memory, whose reader and Redis do as the test says."""

    begins: bool = True
    hold: Hold = Hold.READ
    away: bool = False
    texts: list[str] = field(default_factory=list)
    ends: list[dict[str, Any]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    takes: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.takes.set()

    async def begin(self) -> bool:
        return self.begins

    async def write(self, text: str) -> Hold:
        self.asked.set()
        await self.takes.wait()
        if self.away:
            raise RedisConnectionError("gone")
        if text:
            self.texts.append(text)
        return self.hold

    async def end(self, result: Mapping[str, Any]) -> Hold:
        if self.away:
            raise RedisConnectionError("gone")
        self.ends.append(json.loads(json.dumps(result)))
        return self.hold


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chats, "COALESCE_S", 0.0)
    for name in ("_BUSY_FIRST_S", "_LOST_FIRST_S"):
        monkeypatch.setattr(attempts, name, 0.0)


@pytest.fixture
async def place(anyio_backend: str) -> AsyncIterator[Place]:
    """Mode `auto`: a chat goes to Ollama, and falls back to vLLM."""
    del anyio_backend
    async with Place(mode=Mode.AUTO).open() as place:
        yield place


@pytest.fixture
def writer() -> FakeWriter:
    return FakeWriter()


def calls_of(place: Place, timeout_s: float = 60.0, losses: list[EngineLost] | None = None) -> Calls:
    async def report(_: EngineClient, error: EngineLost) -> None:
        if losses is not None:
            losses.append(error)

    return Calls(place.admission, SuspectsHere(), timeout_s=timeout_s, report_lost=report)


def conversation(deadline_s: float = 60.0) -> Conversation:
    return Conversation(messages=(Message(role="user", content="hi"),), sampling=Sampling(), deadline_s=deadline_s)


async def streaming(
    place: Place, writer: FakeWriter, *, timeout_s: float = 60.0, deadline_s: float = 60.0
) -> asyncio.Task[dict[str, Any]]:
    work = chats.stream(calls_of(place, timeout_s), conversation(deadline_s), DELIVERY, writer)  # type: ignore[arg-type] # a double
    return await begun(work)


async def written(writer: FakeWriter, text: str) -> None:
    """Returns when `text` stands in the stream."""
    async with asyncio.timeout(5):
        while "".join(writer.texts) != text:
            writer.asked.clear()
            await writer.asked.wait()


class TestWhole:
    async def test_an_answer_is_a_plain_dict_that_says_where_it_came_from(self, place: Place) -> None:
        task = await begun(chats.answer(calls_of(place), CHAT, conversation(), DELIVERY))
        (await place.asked(OLLAMA)).answer("hello")
        assert await task == {
            "status": "ok",
            "text": "hello",
            "reasoning": None,
            "finish": "stop",
            "engine": "ollama",
            "mode": "auto",
            "reason": "mode auto prefers Ollama for chat",
            "attempts": 1,
            "usage": {"prompt_tokens": 3, "completion_tokens": 7},
        }

    @pytest.mark.parametrize(
        ("text", "finish", "status"),
        [
            ("cut", Finish.LENGTH, "truncated"),
            ("  \n", Finish.STOP, "empty"),
            ("", Finish.LENGTH, "truncated"),
            ("all", Finish.STOP, "ok"),
        ],
    )
    async def test_an_answer_that_is_cut_or_blank_is_no_success(
        self, place: Place, text: str, finish: Finish, status: str
    ) -> None:
        task = await begun(chats.answer(calls_of(place), CHAT, conversation(), DELIVERY))
        (await place.asked(OLLAMA)).answer(text, finish=finish)
        assert (await task)["status"] == status
        assert len(place.engines[OLLAMA][0].asked) == 1

    async def test_a_call_without_an_answer_fails_with_the_reason(self, place: Place) -> None:
        task = await begun(chats.answer(calls_of(place), CHAT, conversation(), DELIVERY))
        (await place.asked(OLLAMA)).fail(RequestRefused("Ollama refused the request", words="too long"))
        with pytest.raises(CallFailed, match=r"^Ollama refused the request: too long$"):
            await task

    async def test_time_that_is_up_closes_the_request(self, place: Place) -> None:
        with pytest.raises(DeadlineExceeded):
            await chats.answer(calls_of(place), CHAT, conversation(0.2), DELIVERY)
        assert place.engines[OLLAMA][0].asked[0].closed


class TestStream:
    async def test_the_pieces_are_written_as_they_come_and_the_end_has_the_result(self, place: Place, writer: FakeWriter) -> None:
        task = await streaming(place, writer)
        asked = await place.asked(OLLAMA)
        asked.say("Hel")
        await written(writer, "Hel")
        asked.say("lo")
        await written(writer, "Hello")
        asked.answer("Hello")
        result = await task
        assert result["text"] == "Hello"
        assert writer.texts == ["Hel", "lo"]
        assert writer.ends == [result]

    async def test_pieces_that_come_together_travel_together(
        self, place: Place, writer: FakeWriter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(chats, "COALESCE_S", 0.5)
        task = await streaming(place, writer)
        asked = await place.asked(OLLAMA)
        asked.say("a", "b", "c")
        await written(writer, "abc")
        for piece in "defg":
            asked.say(piece)
            await settled()
        await written(writer, "abcdefg")
        asked.answer("abcdefg")
        await task
        assert writer.texts == ["abc", "defg"]

    async def test_an_engine_that_is_lost_before_the_first_piece_is_replaced_by_the_other(
        self, place: Place, writer: FakeWriter
    ) -> None:
        task = await streaming(place, writer)
        asked = await place.asked(OLLAMA)
        place.set_state(OLLAMA, Readiness.UNAVAILABLE)
        asked.fail(EngineLost("Ollama: connection lost"))
        other = await place.asked(VLLM)
        other.say("whole")
        other.answer("whole")
        result = await task
        assert (result["engine"], result["attempts"]) == ("vllm", 1)
        assert writer.texts == ["whole"]
        assert writer.ends == [result]

    @pytest.mark.parametrize("error", [EngineLost("Ollama: connection lost"), EngineBusy("Ollama said an error")])
    async def test_an_answer_that_breaks_off_is_never_begun_again(
        self, place: Place, writer: FakeWriter, error: EngineLost | EngineBusy
    ) -> None:
        task = await streaming(place, writer)
        asked = await place.asked(OLLAMA)
        asked.say("half")
        asked.fail(error)
        with pytest.raises(StreamInterrupted, match=f"the answer broke off: {error}"):
            await task
        assert writer.texts == ["half"]
        assert writer.ends == [{"status": "interrupted", "error": f"the answer broke off: {error}"}]
        assert len(place.engines[OLLAMA][0].asked) == 1
        assert place.engines[VLLM][0].asked == []
        assert place.admission.in_flight == {}

    async def test_an_engine_that_is_lost_in_the_middle_of_an_answer_is_reported(self, place: Place, writer: FakeWriter) -> None:
        losses: list[EngineLost] = []
        calls = calls_of(place, losses=losses)
        task = await begun(chats.stream(calls, conversation(), DELIVERY, writer))  # type: ignore[arg-type] # a double
        asked = await place.asked(OLLAMA)
        asked.say("half")
        error = EngineWithdrew("Ollama: told to stop")
        asked.fail(error)
        with pytest.raises(StreamInterrupted):
            await task
        assert losses == [error]

    async def test_an_answer_that_takes_longer_than_a_call_may_is_closed_and_never_begun_again(
        self, place: Place, writer: FakeWriter
    ) -> None:
        task = await streaming(place, writer, timeout_s=0.3)
        asked = await place.asked(OLLAMA)
        asked.say("half")
        with pytest.raises(StreamInterrupted, match="AEGIS_CALL_TIMEOUT_S"):
            await task
        assert asked.closed
        assert writer.texts == ["half"]
        assert [end["status"] for end in writer.ends] == ["interrupted"]
        assert len(place.engines[OLLAMA][0].asked) == 1

    async def test_an_answer_that_has_begun_at_an_engine_that_is_to_go_is_interrupted_at_once(
        self, place: Place, writer: FakeWriter
    ) -> None:
        task = await streaming(place, writer)
        asked = await place.asked(OLLAMA)
        asked.say("half")
        await written(writer, "half")
        place.set_control(OLLAMA, Control(phase=Phase.DRAINING, since=1.0, fenced=True, closing=True))
        with pytest.raises(StreamInterrupted, match="gives its memory back"):
            await task
        assert asked.closed
        assert [end["status"] for end in writer.ends] == ["interrupted"]
        assert place.engines[VLLM][0].asked == []

    async def test_an_answer_that_has_not_begun_there_begins_at_the_other_engine(
        self, place: Place, writer: FakeWriter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attempts, "_LOST_FIRST_S", 0.0)
        task = await streaming(place, writer)
        await place.asked(OLLAMA)
        place.set_control(OLLAMA, Control(phase=Phase.DRAINING, since=1.0, fenced=True, closing=True))
        (await place.asked(VLLM)).answer("whole")
        assert (await task)["engine"] == "vllm"

    async def test_a_refused_request_ends_the_stream_with_the_reason(self, place: Place, writer: FakeWriter) -> None:
        task = await streaming(place, writer)
        (await place.asked(OLLAMA)).fail(RequestRefused("refused", words="too long"))
        with pytest.raises(CallFailed):
            await task
        assert writer.ends == [{"status": "failed", "error": "refused: too long"}]

    async def test_where_nothing_can_serve_the_stream_ends_with_the_reason(self, writer: FakeWriter) -> None:
        async with Place(mode=Mode.VLLM, replicas={VLLM: 0}).open() as place:
            with pytest.raises(ConfigurationError):
                await (await streaming(place, writer))
        assert [end["status"] for end in writer.ends] == ["failed"]
        assert "AEGIS_VLLM_MODEL" in writer.ends[0]["error"]

    async def test_a_redelivered_chat_that_was_answered_in_part_asks_no_engine(self, place: Place) -> None:
        writer = FakeWriter(begins=False)
        with pytest.raises(StreamInterrupted, match="had already answered in part: ask again"):
            await (await streaming(place, writer))
        assert (writer.texts, writer.ends) == ([], [])
        assert place.engines[OLLAMA][0].asked == []

    @pytest.mark.parametrize("hold", [Hold.UNREAD, Hold.TAKEN_OVER])
    async def test_a_reader_that_has_gone_closes_the_call_at_the_next_piece(
        self, place: Place, writer: FakeWriter, hold: Hold
    ) -> None:
        task = await streaming(place, writer)
        asked = await place.asked(OLLAMA)
        writer.hold = hold
        asked.say("unheard")
        with pytest.raises(CallCancelled):
            await task
        assert asked.closed
        assert place.admission.in_flight == {}

    async def test_a_reader_that_goes_while_the_engine_is_silent_closes_the_call(
        self, place: Place, writer: FakeWriter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(chats, "ASK_READER_S", 0.01)
        task = await streaming(place, writer)
        asked = await place.asked(OLLAMA)
        writer.hold = Hold.UNREAD
        with pytest.raises(CallCancelled, match="nobody reads"):
            await task
        assert asked.closed

    async def test_a_reader_that_goes_while_the_call_waits_ends_it(
        self, place: Place, writer: FakeWriter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(chats, "ASK_READER_S", 0.01)
        place.set_state(OLLAMA, Readiness.STARTING)
        place.set_state(VLLM, Readiness.STARTING)
        writer.hold = Hold.UNREAD
        with pytest.raises(CallCancelled):
            await (await streaming(place, writer))
        await settled()
        assert place.admission.waiting == {}

    async def test_time_that_is_up_ends_the_stream_with_what_it_waited_for(self, place: Place, writer: FakeWriter) -> None:
        place.set_state(OLLAMA, Readiness.STARTING)
        place.set_state(VLLM, Readiness.STARTING)
        with pytest.raises(DeadlineExceeded):
            await (await streaming(place, writer, deadline_s=0.2))
        assert [end["status"] for end in writer.ends] == ["failed"]
        assert "waits for Ollama: starting" in writer.ends[0]["error"]

    async def test_time_that_is_up_in_the_middle_interrupts_the_stream(self, place: Place, writer: FakeWriter) -> None:
        task = await streaming(place, writer, deadline_s=0.3)
        asked = await place.asked(OLLAMA)
        asked.say("half")
        with pytest.raises(DeadlineExceeded):
            await task
        assert asked.closed
        assert writer.texts == ["half"]
        assert [end["status"] for end in writer.ends] == ["interrupted"]

    async def test_a_chat_stopped_before_its_first_piece_leaves_the_stream_to_its_next_delivery(
        self, place: Place, writer: FakeWriter
    ) -> None:
        task = await streaming(place, writer)
        asked = await place.asked(OLLAMA)
        await ended(task)
        assert asked.closed
        assert (writer.texts, writer.ends) == ([], [])

    async def test_a_chat_that_waits_when_the_worker_stops_leaves_the_stream_to_its_next_delivery(
        self, place: Place, writer: FakeWriter
    ) -> None:
        place.set_state(OLLAMA, Readiness.STARTING)
        place.set_state(VLLM, Readiness.STARTING)
        task = await streaming(place, writer)
        place.admission.close()
        with pytest.raises(WorkerStopping):
            await task
        assert (writer.texts, writer.ends) == ([], [])

    async def test_a_chat_stopped_in_the_middle_ends_as_interrupted(self, place: Place, writer: FakeWriter) -> None:
        task = await streaming(place, writer)
        asked = await place.asked(OLLAMA)
        asked.say("half")
        await settled()
        await ended(task)
        assert task.cancelled()
        assert asked.closed
        assert writer.texts == ["half"]
        assert writer.ends == [{"status": "interrupted", "error": "the worker stopped"}]

    async def test_a_chat_stopped_while_a_piece_is_on_its_way_leaves_no_hole(self, place: Place, writer: FakeWriter) -> None:
        task = await streaming(place, writer)
        asked = await place.asked(OLLAMA)
        writer.takes.clear()
        asked.say("a")
        await settled()
        asked.say("b")
        await settled()
        task.cancel()
        await settled()
        writer.takes.set()
        await asyncio.wait([task])
        assert task.cancelled()
        assert writer.texts == ["a", "b"]
        assert [end["status"] for end in writer.ends] == ["interrupted"]

    async def test_a_redis_that_goes_away_in_the_middle_closes_the_call_and_says_so(
        self, place: Place, writer: FakeWriter
    ) -> None:
        task = await streaming(place, writer)
        asked = await place.asked(OLLAMA)
        writer.away = True
        asked.say("half")
        with pytest.raises(StreamInterrupted, match="Redis did not take"):
            await task
        assert asked.closed
        assert place.admission.in_flight == {}

    async def test_a_chat_stopped_while_redis_is_away_is_stopped_all_the_same(self, place: Place, writer: FakeWriter) -> None:
        task = await streaming(place, writer)
        asked = await place.asked(OLLAMA)
        asked.say("half")
        await settled()
        writer.away = True
        await ended(task)
        assert task.cancelled()
