import asyncio
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import StillClock, settled

from aegis_workers.simulator.clock import Interrupted, Timeline
from aegis_workers.simulator.options import Options
from aegis_workers.simulator.pace import Meter, Pace
from aegis_workers.simulator.slots import QueueFull, Slots
from aegis_workers.simulator.stats import Stats


async def call(timeline: Timeline, meter: Meter, slots: Slots, tokens: int, ends: list[float]) -> None:
    async with slots.hold():
        with meter.join() as share:
            await share.reach(tokens)
    ends.append(timeline.now())


async def finish_times(tokens: list[int], *, slots: int, tokens_per_s: float) -> list[float]:
    clock = StillClock()
    timeline = Timeline(clock)
    meter, free, ends = Meter(timeline, tokens_per_s), Slots(timeline, Stats(), size=slots), list[float]()
    calls = [asyncio.create_task(call(timeline, meter, free, count, ends)) for count in tokens]
    await settled()
    await clock.advance(10 * sum(tokens) / tokens_per_s + 1)
    await asyncio.gather(*calls)
    return ends


def test_a_single_call_has_all_of_the_speed() -> None:
    assert asyncio.run(finish_times([82], slots=4, tokens_per_s=41)) == pytest.approx([2.0])


def test_running_calls_share_the_speed() -> None:
    # Together 30 tokens are generated; the long call then has the rest for itself.
    assert asyncio.run(finish_times([10, 10, 30], slots=3, tokens_per_s=10)) == pytest.approx([3.0, 3.0, 5.0])


@given(
    tokens=st.lists(st.integers(1, 500), min_size=1, max_size=12),
    slots=st.integers(1, 5),
    tokens_per_s=st.sampled_from([41.0, 793.0]),
)
def test_the_speed_in_all_is_right_however_calls_come_and_go(tokens: list[int], slots: int, tokens_per_s: float) -> None:
    last = max(asyncio.run(finish_times(tokens, slots=slots, tokens_per_s=tokens_per_s)))
    assert last == pytest.approx(sum(tokens) / tokens_per_s, rel=1e-3)


def test_a_call_that_leaves_gives_its_part_to_the_others() -> None:
    async def scenario() -> list[float]:
        clock = StillClock()
        timeline = Timeline(clock)
        meter, slots, ends = Meter(timeline, 10), Slots(timeline, Stats(), size=2), list[float]()
        leaver = asyncio.create_task(call(timeline, meter, slots, 1000, ends))
        stayer = asyncio.create_task(call(timeline, meter, slots, 20, ends))
        await settled()
        await clock.advance(2)
        leaver.cancel()
        await settled()
        await clock.advance(1)
        await stayer
        return ends

    assert asyncio.run(scenario()) == pytest.approx([3.0])


def test_log_normal_call_times_have_the_mean_and_the_spread_asked_for() -> None:
    pace = Pace(Timeline(StillClock()), Options(engine="vllm", call_seconds=2.0, call_seconds_cv=0.5, seed=1))
    times = [pace._call_time_s() for _ in range(4000)]
    assert statistics.mean(times) == pytest.approx(2.0, rel=0.05)
    assert statistics.stdev(times) / statistics.mean(times) == pytest.approx(0.5, rel=0.1)


@given(seed=st.integers())
def test_no_more_calls_run_than_there_are_slots(seed: int) -> None:
    async def scenario() -> None:
        chance = random.Random(seed)  # noqa: S311 - which calls leave, no secrets
        clock, stats = StillClock(), Stats()
        timeline = Timeline(clock)
        slots = Slots(timeline, stats, size=3)

        async def hold() -> None:
            async with slots.hold():
                assert stats.running <= 3
                await timeline.sleep(chance.random())

        calls = [asyncio.create_task(hold()) for _ in range(12)]
        await settled()
        for leaver in chance.sample(calls, 4):
            leaver.cancel()
            await clock.advance(chance.random() / 4)
        await clock.advance(10)
        await asyncio.gather(*calls, return_exceptions=True)
        assert stats.running == 0
        assert stats.max_running == 3
        async with slots.hold(), slots.hold(), slots.hold():  # none was lost
            assert stats.running == 3

    asyncio.run(scenario())


def test_slots_are_handed_on_in_the_order_of_arrival() -> None:
    async def scenario() -> list[int]:
        clock, order = StillClock(), list[int]()
        timeline = Timeline(clock)
        slots = Slots(timeline, Stats(), size=1)

        async def hold(number: int) -> None:
            async with slots.hold():
                order.append(number)
                await timeline.sleep(1)

        calls = [asyncio.create_task(hold(number)) for number in range(5)]
        await settled()
        calls[2].cancel()
        await clock.advance(10)
        await asyncio.gather(*calls, return_exceptions=True)
        return order

    assert asyncio.run(scenario()) == [0, 1, 3, 4]


def test_a_full_queue_turns_calls_away() -> None:
    async def scenario() -> None:
        timeline = Timeline(StillClock())
        slots = Slots(timeline, Stats(), size=1, bound=2)
        async with slots.hold():
            waiting = asyncio.create_task(slots._take())
            await settled()
            with pytest.raises(QueueFull):
                await slots._take()
        await waiting

    asyncio.run(scenario())


def test_a_slot_handed_to_a_call_that_leaves_in_that_moment_is_not_lost() -> None:
    async def scenario() -> None:
        stats = Stats()
        slots = Slots(Timeline(StillClock()), stats, size=1)
        async with slots.hold():
            leaver = asyncio.create_task(slots._take())
            await settled()
        leaver.cancel()
        await asyncio.gather(leaver, return_exceptions=True)
        async with asyncio.timeout(5), slots.hold():
            assert stats.running == 1

    asyncio.run(scenario())


def test_an_interruption_reaches_every_wait_and_loses_no_slot() -> None:
    async def scenario() -> None:
        timeline, stats = Timeline(StillClock()), Stats()
        slots = Slots(timeline, stats, size=1)

        async def hold() -> None:
            async with slots.hold():
                await timeline.forever()

        calls = [asyncio.create_task(hold()) for _ in range(3)]
        await settled()
        timeline.interrupt()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(end) for end in ends] == [Interrupted] * 3
        async with slots.hold():
            assert stats.running == 1

    asyncio.run(scenario())


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        Options(engine="vllm", call_seconds=1, tokens_per_s=1)
    with pytest.raises(ValueError, match="slots must be above 0"):
        Options(engine="vllm", slots=0)
