import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from dispatch_place import LIMITS, Caller, Place, call
from hypothesis import given, settings
from hypothesis import strategies as st
from settling import ended, settled

from aegis_workers.dispatch import admission
from aegis_workers.dispatch.admission import Lane, lane
from aegis_workers.engines.base import Readiness
from aegis_workers.errors import ConfigurationError, WorkerStopping
from aegis_workers.routing import Engine, Mode, Policy, Run, TaskType

pytestmark = pytest.mark.anyio

VLLM, OLLAMA = Engine.VLLM, Engine.OLLAMA
CHAT, EXTRACTION, GENERATION = TaskType.CHAT, TaskType.EXTRACTION, TaskType.GENERATION
DOWN, STARTING, READY = Readiness.UNAVAILABLE, Readiness.STARTING, Readiness.READY

Open = Callable[..., "asyncio.Future[Place]"]


@pytest.fixture
async def place(anyio_backend: str) -> AsyncIterator[Place]:
    """Mode `auto`, one replica of each engine; three calls fit on vLLM and two on Ollama."""
    del anyio_backend
    async with Place().open() as place:
        yield place


def calls(place: Place, task_type: TaskType, count: int, order: list[int] | None = None) -> list[Caller]:
    return [call(place, task_type, number, order) for number in range(count)]


@pytest.mark.parametrize(
    ("task_type", "expected"), [(CHAT, Lane.INTERACTIVE), (GENERATION, Lane.INTERACTIVE), (EXTRACTION, Lane.BULK)]
)
def test_bulk_work_waits_in_a_line_of_its_own(task_type: TaskType, expected: Lane) -> None:
    assert lane(task_type) is expected


async def test_a_call_is_told_where_it_runs_and_why(place: Place) -> None:
    caller = call(place, EXTRACTION)
    await settled()
    assert caller.admitted is not None
    assert (caller.engine, caller.admitted.mode) == (VLLM, Mode.AUTO)
    assert caller.admitted.reason == "mode auto prefers vLLM for extraction"
    assert caller.admitted.client is place.engines[VLLM][0]


async def test_no_more_calls_are_in_flight_than_the_engine_may_have(place: Place) -> None:
    callers = calls(place, EXTRACTION, 5)
    await settled()
    assert [caller.runs for caller in callers] == [True, True, True, False, False]
    assert place.admission.in_flight == {"vllm": 3}
    assert place.admission.waiting == {"waits for a slot: vLLM has 3 of 3 calls in flight": 2}


async def test_a_slot_that_is_given_back_goes_to_who_waited_longest(place: Place) -> None:
    order: list[int] = []
    callers = calls(place, EXTRACTION, 6, order)
    await settled()
    for number in (2, 0, 1):
        callers[number].done.set()
        await settled()
    assert order == [0, 1, 2, 3, 4, 5]


async def test_a_call_that_fails_gives_its_slot_back(place: Place) -> None:
    with pytest.raises(ZeroDivisionError):
        async with place.admission.slot(CHAT):
            raise ZeroDivisionError
    assert place.admission.in_flight == {}


async def test_bulk_work_that_waits_does_not_hold_up_a_chat(place: Place) -> None:
    place.set_state(VLLM, DOWN, "refused")
    place.set_mode(Mode.VLLM)
    for bulk in calls(place, EXTRACTION, 9):
        assert bulk.waits
    await settled()
    place.set_mode(Mode.OLLAMA)
    chat = call(place, CHAT)
    await settled()
    assert place.admission.in_flight == {"ollama": 2}
    assert chat.waits  # Ollama is full with bulk work; the chat is the next
    assert place.admission.waits_for(CHAT) == "waits for a slot: Ollama has 2 of 2 calls in flight"


async def test_when_slots_are_short_a_chat_goes_before_bulk_work_that_came_earlier(place: Place) -> None:
    place.set_mode(Mode.OLLAMA)
    running = calls(place, EXTRACTION, 2)
    await settled()
    bulk, chat = call(place, EXTRACTION), call(place, CHAT)
    await settled()
    running[0].done.set()
    await settled()
    assert (chat.runs, bulk.waits) == (True, True)


async def test_a_call_in_flight_keeps_its_engine_and_the_next_goes_where_the_mode_says(place: Place) -> None:
    place.set_mode(Mode.VLLM)
    before = call(place, CHAT)
    await settled()
    place.set_mode(Mode.OLLAMA)
    after = call(place, CHAT)
    await settled()
    assert (before.engine, after.engine) == (VLLM, OLLAMA)
    assert before.runs
    assert place.admission.in_flight == {"vllm": 1, "ollama": 1}
    before.done.set()
    await before.task
    assert place.admission.in_flight == {"ollama": 1}


async def test_calls_that_wait_are_decided_anew_when_the_mode_changes(place: Place) -> None:
    place.set_state(VLLM, STARTING)
    place.set_mode(Mode.VLLM)
    waiting = call(place, CHAT)
    await settled()
    assert place.admission.waiting == {"waits for vLLM: starting": 1}
    place.set_mode(Mode.OLLAMA)
    await settled()
    assert waiting.engine is OLLAMA


async def test_a_call_waits_for_an_engine_and_says_for_which_and_why(place: Place) -> None:
    place.set_state(VLLM, STARTING)
    place.set_state(OLLAMA, DOWN, "connection refused")
    waiting = call(place, CHAT)
    await settled()
    assert waiting.waits
    assert place.admission.waits_for(CHAT) == "waits for Ollama: connection refused; waits for vLLM: starting"
    place.set_state(VLLM, READY)
    await settled()
    assert waiting.engine is VLLM
    assert waiting.admitted is not None
    assert waiting.admitted.reason.endswith("fell back to vLLM")


async def test_what_is_said_of_waiting_calls_is_plain_data(place: Place) -> None:
    place.set_state(VLLM, DOWN)
    place.set_state(OLLAMA, DOWN)
    calls(place, CHAT, 2)
    await settled()
    assert type(place.admission.waiting) is type(place.admission.in_flight) is dict


async def test_a_mode_that_could_not_be_read_again_is_used_and_said_to_be_stale(place: Place) -> None:
    first = call(place, CHAT)
    await settled()
    place.redis_away = True
    place.push()
    caller = call(place, CHAT)
    await settled()
    assert first.admitted is not None
    assert caller.admitted is not None
    assert "Redis does not answer" not in first.admitted.reason
    assert "Redis does not answer" in caller.admitted.reason


async def test_waiting_calls_look_again_even_if_no_push_tells_them_to(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_LOOK_AGAIN_S", 0.01)
    place.set_state(VLLM, DOWN)
    place.set_state(OLLAMA, DOWN)
    waiting = call(place, CHAT)
    await settled()
    assert waiting.waits
    place.states[place.engines[VLLM][0]] = (READY, "")
    waiting.done.set()
    async with asyncio.timeout(5):
        await waiting.task


@pytest.mark.parametrize(("mode", "policy"), [(Mode.OLLAMA, Policy.HOLD), (Mode.AUTO, Policy.HOLD)])
async def test_with_policy_hold_a_call_waits_although_the_other_engine_is_up(mode: Mode, policy: Policy) -> None:
    async with Place(mode=mode, policy=policy).open() as place:
        place.set_state(OLLAMA, DOWN)
        waiting = call(place, CHAT)
        await settled()
        assert waiting.waits
        assert place.admission.waiting == {"waits for Ollama: not up": 1}
        await ended(waiting.task)


async def test_where_no_allowed_engine_is_configured_a_call_fails_at_once_and_those_behind_it_go_on() -> None:
    async with Place(mode=Mode.VLLM, replicas={VLLM: 0}).open() as place:
        refused = calls(place, CHAT, 2)
        served = call(place, EXTRACTION)
        await settled()
        for caller in refused:
            with pytest.raises(ConfigurationError, match="set AEGIS_VLLM_MODEL"):
                await caller.task
        assert served.engine is OLLAMA
        assert place.admission.waiting == {}


async def test_the_replica_with_the_fewest_calls_in_flight_is_next() -> None:
    async with Place(mode=Mode.VLLM, replicas={VLLM: 3}).open() as place:
        callers = calls(place, CHAT, 6)
        await settled()
        used = Counter(caller.admitted.client for caller in callers if caller.admitted)
        assert used == dict.fromkeys(place.engines[VLLM], 2)
        callers[4].done.set()
        await settled()
        following = call(place, CHAT)
        await settled()
        assert following.admitted is not None
        assert callers[4].admitted is not None
        assert following.admitted.client is callers[4].admitted.client


async def test_a_replica_that_is_not_ready_gets_no_call() -> None:
    async with Place(mode=Mode.VLLM, replicas={VLLM: 2}).open() as place:
        place.states[place.engines[VLLM][0]] = (DOWN, "refused")
        place.push()
        callers = calls(place, CHAT, 4)
        await settled()
        assert [caller.runs for caller in callers] == [True, True, True, False]
        assert {caller.admitted.client for caller in callers if caller.admitted} == {place.engines[VLLM][1]}


async def test_an_engine_that_is_ready_only_under_addresses_unknown_here_is_not_up(place: Place) -> None:
    """The prober is another worker: where its addresses are not ours, calls would wait for a slot that nobody has."""
    await place._statuses.read()
    place.engines[VLLM][0].url = "http://another-name-of-it"
    only = call(place, EXTRACTION)
    await settled()
    assert only.engine == OLLAMA
    assert only.admitted is not None
    assert "no replica in this worker's AEGIS_VLLM_URL is ready" in only.admitted.reason


async def test_a_worker_that_stops_admits_nobody_any_more_and_leaves_those_in_flight(place: Place) -> None:
    callers = calls(place, EXTRACTION, 5)
    await settled()
    place.admission.close()
    late = call(place, CHAT)
    await settled()
    assert [caller.runs for caller in callers] == [True, True, True, False, False]
    for caller in (*callers[3:], late):
        with pytest.raises(WorkerStopping):
            await caller.task
    callers[0].done.set()
    await callers[0].task
    assert place.admission.in_flight == {"vllm": 2}
    assert place.admission.waiting == {}


async def test_a_call_cancelled_while_it_waits_holds_up_nobody(place: Place) -> None:
    running = calls(place, EXTRACTION, 3)
    first, second = calls(place, EXTRACTION, 2)
    await settled()
    await ended(first.task)
    assert sum(place.admission.waiting.values()) == 1
    running[0].done.set()
    await settled()
    assert second.runs


@pytest.mark.parametrize("ticks", range(8))
async def test_a_call_cancelled_in_the_instant_of_its_admission_gives_its_slot_back(place: Place, ticks: int) -> None:
    running = calls(place, EXTRACTION, 3)
    waiting = call(place, EXTRACTION)
    await settled()
    running[0].done.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    await ended(waiting.task)
    await settled()
    assert place.admission.in_flight == {"vllm": 2}
    next_one = call(place, EXTRACTION)
    await settled()
    assert next_one.runs


task_types, modes = st.sampled_from(TaskType), st.sampled_from(Mode)
actions = st.one_of(
    st.tuples(st.just("arrive"), task_types),
    st.tuples(st.just("arrive"), task_types),
    st.tuples(st.just("arrive"), task_types),
    st.tuples(st.just("finish"), st.integers(0, 30)),
    st.tuples(st.just("finish"), st.integers(0, 30)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("cancel soon"), st.integers(0, 6)),
    st.tuples(st.just("mode"), modes),
    st.tuples(st.sampled_from(["vllm", "ollama"]), st.sampled_from(Readiness)),
)


class Play:
    """Carries out actions on one place, and checks after each that nothing is promised twice or kept back."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.callers: list[Caller] = []
        self.order: list[int] = []
        self.pinned: dict[Caller, Engine] = {}

    async def act(self, name: str, value: object) -> None:
        match name, value:
            case "arrive", TaskType():
                self.callers.append(call(self.place, value, len(self.callers), self.order))
            case ("finish", int()) if running := [caller for caller in self.callers if caller.runs]:
                running[value % len(running)].done.set()
            case ("cancel", int()) if alive := [caller for caller in self.callers if not caller.task.done()]:
                alive[value % len(alive)].task.cancel()
            case "cancel soon", int():
                await self.cancel_around_its_admission(value)
            case "mode", Mode():
                self.place.set_mode(value)
            case (("vllm" | "ollama"), Readiness()):
                self.place.set_state(Engine(name), value)
        await settled()
        await self.check()

    async def cancel_around_its_admission(self, ticks: int) -> None:
        running = [caller for caller in self.callers if caller.runs]
        waiting = [caller for caller in self.callers if caller.waits]
        for caller in running[:1]:
            caller.done.set()
        for _ in range(ticks):
            await asyncio.sleep(0)
        for caller in waiting[:1]:
            caller.task.cancel()

    async def check(self) -> None:
        running = [caller for caller in self.callers if caller.runs]
        counts = Counter(str(caller.engine) for caller in running)
        assert self.place.admission.in_flight == counts
        for engine, clients in self.place.engines.items():
            assert counts[engine] <= LIMITS[engine] * len(clients)
        for caller in running:
            assert caller.admitted is not None
            assert self.pinned.setdefault(caller, caller.admitted.engine) is caller.admitted.engine
        self.check_order()
        await self.check_no_head_is_kept_back(counts)

    def check_order(self) -> None:
        for line in Lane:
            numbers = [number for number in self.order if lane(self.callers[number].task_type) is line]
            assert numbers == sorted(numbers)

    async def check_no_head_is_kept_back(self, counts: Counter[str]) -> None:
        mode, statuses = await self.place._modes.read(), await self.place._statuses.read()
        for line in Lane:
            waiting = [caller for caller in self.callers if caller.waits and lane(caller.task_type) is line]
            if waiting:
                decision = self.place.admission.decide(waiting[0].task_type, mode, statuses.value)
                assert not isinstance(decision, Run) or counts[decision.engine] == LIMITS[decision.engine]
        assert sum(self.place.admission.waiting.values()) == sum(caller.waits for caller in self.callers)

    async def end(self) -> None:
        for caller in self.callers:
            caller.task.cancel()
        await asyncio.gather(*(caller.task for caller in self.callers), return_exceptions=True)
        assert self.place.admission.in_flight == {}
        assert self.place.admission.waiting == {}


@settings(max_examples=150)
@given(modes, st.lists(actions, min_size=10, max_size=50))
def test_whatever_comes_no_slot_is_lost_or_given_twice_and_no_one_is_overtaken(
    mode: Mode, played: Sequence[tuple[str, object]]
) -> None:
    async def carry_out() -> None:
        async with Place(mode=mode).open() as place:
            play = Play(place)
            for name, value in played:
                await play.act(name, value)
            await play.end()

    asyncio.run(carry_out())
