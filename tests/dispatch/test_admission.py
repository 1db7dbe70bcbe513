import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest
from dispatch_place import CALL_IDS, FOR_EVER_S, LIMITS, Caller, Place, call, given_back
from hypothesis import given, settings
from hypothesis import strategies as st
from settling import ended, settled

from aegis_workers.dispatch import admission
from aegis_workers.dispatch.lines import Awaited
from aegis_workers.engines.base import Readiness
from aegis_workers.errors import CallCancelled, ConfigurationError, WaitedTooLong, WorkerStopping
from aegis_workers.routing import Engine, Lane, Mode, Policy, Run, TaskType, lane
from aegis_workers.state.breaker import FAILURES_TO_OPEN
from aegis_workers.state.slots import Ended, Refusal, Want

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
        async with place.admission.slot(CHAT, CALL_IDS()):
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
    place.set_state(VLLM, DOWN, "connection refused")
    place.set_mode(Mode.VLLM)
    waiting = call(place, CHAT)
    await settled()
    assert place.admission.waiting == {"waits for vLLM: connection refused": 1}
    place.set_mode(Mode.OLLAMA)
    await settled()
    assert waiting.engine is OLLAMA


async def test_in_mode_vllm_a_chat_that_waits_goes_to_ollama_while_vllm_starts_and_the_next_to_vllm(place: Place) -> None:
    place.set_state(VLLM, DOWN, "not started")
    place.set_mode(Mode.VLLM)
    waiting = call(place, CHAT)
    await settled()
    assert waiting.waits
    place.set_state(VLLM, STARTING)
    await settled()
    assert waiting.engine is OLLAMA
    place.set_state(VLLM, READY)
    after = call(place, CHAT)
    await settled()
    assert (waiting.engine, after.engine) == (OLLAMA, VLLM)


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


async def test_what_calls_wait_for_can_be_counted_by_lane(place: Place) -> None:
    calls(place, EXTRACTION, 5)
    await settled()
    assert counted(place) == {(Lane.BULK, Awaited.SLOT): 2}
    place.set_state(VLLM, DOWN)
    place.set_state(OLLAMA, DOWN)
    call(place, CHAT)
    await settled()
    assert counted(place) == {(Lane.BULK, Awaited.ENGINE): 2, (Lane.INTERACTIVE, Awaited.ENGINE): 1}
    place.alive = False
    place.set_state(VLLM, READY)
    await settled()
    assert counted(place) == {(Lane.BULK, Awaited.LIVENESS): 2, (Lane.INTERACTIVE, Awaited.LIVENESS): 1}
    place.redis_away = True
    place.push()
    await settled()
    assert set(counted(place)) <= {(lane, awaited) for lane in Lane for awaited in (Awaited.REDIS, Awaited.LIVENESS)}


def counted(place: Place) -> dict[tuple[Lane, Awaited], int]:
    return {waiting: count for waiting, count in place.admission.awaited.items() if count}


async def test_what_is_said_of_waiting_calls_is_plain_data(place: Place) -> None:
    place.set_state(VLLM, DOWN)
    place.set_state(OLLAMA, DOWN)
    calls(place, CHAT, 2)
    await settled()
    assert type(place.admission.waiting) is type(place.admission.in_flight) is dict


async def test_without_redis_nobody_is_admitted_until_it_is_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_REDIS_AGAIN_S", 0.01)
    running = call(place, CHAT)
    await settled()
    place.redis_away = True
    place.push()
    caller = call(place, CHAT)
    await settled()
    assert (running.runs, caller.waits) == (True, True)
    assert "waits for Redis, which does not answer" in place.admission.waits_for(CHAT)
    running.done.set()
    await running.task
    place.redis_away = False
    caller.done.set()
    async with asyncio.timeout(5):
        await caller.task
    place.push()
    await settled()
    assert place.slots.count(place.engines[OLLAMA][0].url) == 0


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


async def test_a_slot_for_which_nobody_waits_goes_back_with_the_next_question(place: Place) -> None:
    first = call(place, EXTRACTION)
    await settled()
    first.done.set()
    await settled()
    assert [len(asked.gives) for asked in place.ledger.asked] == [0]
    call(place, EXTRACTION)
    await settled()
    assert [(len(asked.gives), len(asked.wants)) for asked in place.ledger.asked] == [(0, 1), (1, 1)]


async def test_a_slot_for_which_nobody_waits_goes_back_alone_if_nobody_asks(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other_reason in ("_REDIS_AGAIN_S", "REFRESH_S"):
        monkeypatch.setattr(admission, other_reason, FOR_EVER_S)
    caller = call(place, EXTRACTION)
    await settled()
    caller.done.set()
    async with asyncio.timeout(10):
        while place.slots.count(place.engines[VLLM][0].url):  # noqa: ASYNC110 - the double has no event for it
            await asyncio.sleep(0.001)
    assert [(len(asked.gives), len(asked.wants)) for asked in place.ledger.asked] == [(0, 1), (1, 0)]


async def test_a_slot_for_which_another_worker_waits_goes_back_at_once(place: Place) -> None:
    running = calls(place, EXTRACTION, 3)
    await settled()
    asked = replace(place.ledger.asked[-1], wants=[Want(call_id="theirs", task_id="theirs", lane=Lane.BULK)])
    assert place.slots.exchange("other", asked).refusals == {Lane.BULK: Refusal.FULL}
    running[0].done.set()
    await given_back(place)
    running[1].done.set()
    await settled()
    assert place.slots.count(place.engines[VLLM][0].url) == 1
    assert place.slots.exchange("other", asked).urls != [None]
    assert place.slots.pushed == [VLLM, VLLM]


async def test_a_slot_given_back_while_redis_refuses_another_call_goes_to_that_call_at_once(place: Place) -> None:
    running = calls(place, EXTRACTION, 3)
    await settled()
    place.ledger.answers.clear()
    waiting = call(place, EXTRACTION)
    await settled()
    running[0].done.set()
    await settled()
    place.ledger.answers.set()
    await settled()
    assert waiting.runs


async def test_slots_whose_return_redis_did_not_confirm_are_given_back_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_REDIS_AGAIN_S", 0.01)
    running = calls(place, EXTRACTION, 2)
    await settled()
    running[0].done.set()
    place.ledger.answers.clear()
    place.admission.nudge()
    await settled()
    running[1].done.set()
    await settled()
    place.redis_away = True
    place.ledger.answers.set()
    await settled()
    place.redis_away = False
    await given_back(place)
    assert [len(asked.gives) for asked in place.ledger.asked][-2:] == [1, 2]
    assert place.slots.count(place.engines[VLLM][0].url) == 0


async def failed(place: Place, engine: Engine, times: int) -> None:
    """So many distinct calls fail at the engine."""
    for number in range(times):
        async with place.admission.slot(EXTRACTION if engine is VLLM else CHAT, CALL_IDS()) as admitted:
            assert (admitted.engine, number) == (engine, number)
            admitted.ended = Ended.FAILED
    await given_back(place)
    place.push()


async def test_an_engine_whose_breaker_opened_is_not_up_and_the_other_serves(place: Place) -> None:
    await failed(place, VLLM, FAILURES_TO_OPEN)
    caller = call(place, EXTRACTION)
    await settled()
    assert caller.engine is OLLAMA
    assert caller.admitted is not None
    assert "its last calls failed: asked again in 1 s" in caller.admitted.reason


async def test_after_its_time_one_call_tries_an_engine_whose_breaker_opened_and_the_rest_go_elsewhere(place: Place) -> None:
    await failed(place, VLLM, FAILURES_TO_OPEN)
    place.slots.now_ms += 1000
    trial = call(place, EXTRACTION)
    await settled()
    place.push()
    other = call(place, EXTRACTION)
    await settled()
    assert (trial.engine, other.engine) == (VLLM, OLLAMA)
    assert trial.admitted is not None
    trial.admitted.ended = Ended.SERVED
    trial.done.set()
    await given_back(place)
    place.push()
    following = call(place, EXTRACTION)
    await settled()
    assert following.engine is VLLM


async def test_with_policy_hold_calls_wait_for_an_open_breaker_and_say_so() -> None:
    async with Place(mode=Mode.OLLAMA, policy=Policy.HOLD).open() as place:
        await failed(place, OLLAMA, FAILURES_TO_OPEN)
        waiting = call(place, CHAT)
        await settled()
        assert waiting.waits
        assert place.admission.waits_for(CHAT) == "waits for Ollama: its last calls failed: asked again in 1 s"


async def test_bulk_never_takes_the_slots_that_are_kept_for_chats() -> None:
    async with Place(mode=Mode.VLLM, kept=1).open() as place:
        bulk = calls(place, EXTRACTION, 4)
        await settled()
        assert [caller.runs for caller in bulk] == [True, True, False, False]
        assert place.admission.waits_for(EXTRACTION) == (
            "waits for a slot: all 2 of vLLM's 3 slots that extraction may have are taken"
        )
        chat = call(place, CHAT)
        await settled()
        assert chat.runs


async def test_a_mode_that_was_written_between_the_decision_and_the_boundary_is_the_one_that_counts(place: Place) -> None:
    """No push has come yet: what the process remembers is already wrong."""
    place.set_mode(Mode.VLLM)
    await place._modes.read()
    place.mode = Mode.OLLAMA
    place.slots.mode = "ollama"
    caller = call(place, CHAT)
    await settled()
    assert caller.engine is OLLAMA


async def test_a_call_of_a_revoked_task_ends_when_its_turn_comes_and_holds_up_nobody(place: Place) -> None:
    revoked = CALL_IDS()
    place.slots.revoked.add(revoked.task_id)
    with pytest.raises(CallCancelled):
        async with place.admission.slot(CHAT, revoked):
            pytest.fail("it was admitted")
    after = call(place, CHAT)
    await settled()
    assert after.runs


async def test_a_call_that_waits_too_long_ends_so_that_its_message_can_go_back() -> None:
    async with Place(longest_wait_s=0.05).open() as place:
        running = calls(place, EXTRACTION, 3)
        waiting = call(place, EXTRACTION)
        with pytest.raises(WaitedTooLong, match="3 of 3 calls in flight"):
            async with asyncio.timeout(5):
                await waiting.task
        assert all(caller.runs for caller in running)


async def test_a_worker_that_may_have_been_declared_dead_admits_nobody(place: Place) -> None:
    place.alive = False
    caller = call(place, CHAT)
    await settled()
    assert caller.waits
    assert place.admission.waits_for(CHAT) == "waits for Redis to know again that this worker lives"
    place.alive = True
    place.admission.nudge()
    await settled()
    assert caller.runs


async def test_what_is_in_flight_is_held_on_to(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "REFRESH_S", 0.01)
    caller = call(place, CHAT)
    await settled()
    (url,) = (client.url for client in place.engines[OLLAMA])
    place.slots.leases.clear()  # as if Redis had been away for longer than a lease
    async with asyncio.timeout(10):
        while place.slots.count(url) == 0:  # noqa: ASYNC110 - the double has no event for it
            await asyncio.sleep(0.01)
    caller.done.set()
    await caller.task
    await given_back(place)
    assert place.slots.count(url) == 0


async def test_a_pump_that_ends_has_given_every_slot_back() -> None:
    place = Place()
    async with place.open():
        caller = call(place, CHAT)
        call(place, EXTRACTION)  # one that is still being closed
        await settled()
        caller.done.set()
        await caller.task
    assert all(place.slots.count(client.url) == 0 for clients in place.engines.values() for client in clients)


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
                decision = self.place.admission.decide(waiting[0].task_type, mode.value, statuses.value)
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
