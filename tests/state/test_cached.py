"""A remembered value, against a source that answers when the test says so and a clock that stands still."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from settling import begun, ended, settled

from aegis_workers.state.cached import Cached, Reading

pytestmark = pytest.mark.anyio

MAX_AGE_S = 30.0


@dataclass
class Source:
    """Counts its versions up from 1. A question is answered, when the test says so, with what was true when it was asked."""

    now_s: float = 1000.0
    versions: list[float] = field(default_factory=lambda: [0.0])
    questions: list[tuple[int, asyncio.Future[None]]] = field(default_factory=list)
    asked: int = 0
    most_at_once: int = 0

    async def fetch(self) -> int:
        answered = asyncio.get_running_loop().create_future()
        self.questions.append((self.version, answered))
        self.asked += 1
        self.most_at_once = max(self.most_at_once, len(self.questions))
        seen = self.version
        try:
            await answered
        finally:
            self.questions = [question for question in self.questions if question[1] is not answered]
        return seen

    @property
    def version(self) -> int:
        return len(self.versions)

    def change(self) -> None:
        self.versions.append(self.now_s)

    def answer(self, *, away: bool = False) -> None:
        for _, answered in self.questions:
            if away:
                answered.set_exception(RedisConnectionError("gone"))
            else:
                answered.set_result(None)

    def out_of_date_s(self, version: int) -> float:
        """For how long `version` has not been what the source holds."""
        return self.now_s - self.versions[version] if version < self.version else 0.0


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
async def cached(source: Source) -> AsyncIterator[Cached[int]]:
    yield cache_of(source)
    source.answer()


def cache_of(source: Source) -> Cached[int]:
    return Cached(source.fetch, 0, max_age_s=MAX_AGE_S, clock=lambda: source.now_s)


async def answered(source: Source, cached: Cached[int], *, away: bool = False) -> Reading[int]:
    reading = await begun(cached.read())
    source.answer(away=away)
    return await reading


async def test_before_the_first_answer_the_initial_value_is_stale(cached: Cached[int]) -> None:
    assert cached.last == Reading(value=0, stale=True)
    assert not cached.fresh


async def test_an_answer_is_served_from_memory_for_its_age_and_no_longer(source: Source, cached: Cached[int]) -> None:
    assert await answered(source, cached) == Reading(value=1)
    source.now_s += MAX_AGE_S - 0.1
    assert await cached.read() == Reading(value=1)
    assert source.asked == 1
    source.now_s += 0.2
    source.change()
    assert await answered(source, cached) == Reading(value=2)


async def test_the_age_of_an_answer_counts_from_the_question(source: Source, cached: Cached[int]) -> None:
    """It may have been true only then: the bound that an operator is promised includes the time that Redis took."""
    reading = await begun(cached.read())
    source.now_s += 10
    source.answer()
    await reading
    source.now_s += MAX_AGE_S - 10
    assert not cached.fresh


async def test_the_age_of_what_is_remembered_grows_until_redis_answers_again(source: Source, cached: Cached[int]) -> None:
    assert cached.age_s is None
    reading = await begun(cached.read())
    source.now_s += 2
    source.answer()
    await reading
    assert cached.age_s == 2
    source.now_s += MAX_AGE_S
    await answered(source, cached, away=True)
    assert cached.age_s == MAX_AGE_S + 2
    source.now_s += 10
    await answered(source, cached)
    assert cached.age_s == 0


async def test_after_a_drop_the_next_read_asks_again(source: Source, cached: Cached[int]) -> None:
    await answered(source, cached)
    source.change()
    cached.drop()
    assert await answered(source, cached) == Reading(value=2)


async def test_an_answer_that_was_under_way_when_a_drop_came_is_not_kept(source: Source, cached: Cached[int]) -> None:
    early = await begun(cached.read())
    source.change()
    cached.drop()
    late = await begun(cached.read())
    source.answer()
    await settled()
    assert await early == Reading(value=1)
    assert not cached.fresh
    source.answer()
    assert await late == Reading(value=2)


async def test_readers_that_come_together_ask_once(source: Source, cached: Cached[int]) -> None:
    readers = [await begun(cached.read()) for _ in range(5)]
    source.answer()
    assert {(await reader).value for reader in readers} == {1}
    assert source.asked == 1


async def test_a_reader_that_gives_up_leaves_the_others_their_turn(source: Source, cached: Cached[int]) -> None:
    first, second = await begun(cached.read()), await begun(cached.read())
    await ended(first)
    await settled()
    source.answer()
    assert await second == Reading(value=1)


async def test_while_redis_is_away_the_last_known_value_is_served_as_stale(source: Source, cached: Cached[int]) -> None:
    await answered(source, cached)
    cached.drop()
    assert await answered(source, cached, away=True) == Reading(value=1, stale=True)
    assert await cached.read() == Reading(value=1, stale=True)
    assert source.asked == 2


async def test_a_redis_that_is_back_is_believed_again_soon(source: Source, cached: Cached[int]) -> None:
    await answered(source, cached, away=True)
    source.now_s += 1.1
    assert await answered(source, cached) == Reading(value=1)


async def test_a_redis_that_takes_long_to_fail_is_not_asked_again_at_once(source: Source, cached: Cached[int]) -> None:
    reading = await begun(cached.read())
    source.now_s += 60
    source.answer(away=True)
    await reading
    assert cached.fresh


async def test_a_mistake_of_our_own_is_not_taken_for_a_redis_that_is_away() -> None:
    async def fetch() -> int:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        await Cached(fetch, 0, max_age_s=MAX_AGE_S).read()


ACTIONS = st.sampled_from(["read", "answer", "fail", "change and push", "change unheard", "drop", "wait 7 s", "wait 40 s"])


@dataclass
class Reader:
    task: asyncio.Task[Reading[int]]
    oldest_allowed: int


class Play:
    """Carries out actions, and knows what each reader may be told."""

    def __init__(self) -> None:
        self.source = Source()
        self.cached = cache_of(self.source)
        self.heard_of = 0
        self.readers: list[Reader] = []

    async def act(self, action: str) -> None:
        match action.split():
            case ["read"]:
                self.readers.append(Reader(await begun(self.cached.read()), self.heard_of))
            case ["answer"]:
                self.source.answer()
            case ["fail"]:
                self.source.answer(away=True)
            case ["wait", seconds, _]:
                self.source.now_s += float(seconds)
            case ["change", "unheard"]:
                self.source.change()
            case ["change", *_] | ["drop"]:
                if action != "drop":
                    self.source.change()
                self.cached.drop()
                self.heard_of = self.source.version
        await settled()
        self.check()

    def check(self) -> None:
        assert self.source.most_at_once <= 1
        for reader in [reader for reader in self.readers if reader.task.done()]:
            self.readers.remove(reader)
            reading = reader.task.result()
            assert reading.value <= self.source.version
            assert reading.stale or reading.value >= reader.oldest_allowed
        if self.cached.fresh and not self.cached.last.stale:
            assert self.cached.last.value >= self.heard_of
            assert self.source.out_of_date_s(self.cached.last.value) < MAX_AGE_S

    async def end(self) -> None:
        while self.readers:
            await self.act("answer")


@settings(max_examples=300)
@given(st.lists(ACTIONS, min_size=20, max_size=60))
def test_no_reader_is_told_what_was_over_before_the_last_push_or_the_age_bound(actions: Sequence[str]) -> None:
    async def play() -> None:
        place = Play()
        for action in actions:
            await place.act(action)
        await place.end()

    asyncio.run(play())
