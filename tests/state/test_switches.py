"""The history of the mode: nothing that changed it is missing, and nothing is there twice."""

from collections.abc import Callable, Sequence

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from aegis_workers.routing import Engine, Mode
from aegis_workers.state import keys, mode, scripts, switches
from aegis_workers.state.engine_control import Phase
from aegis_workers.state.switches import Course, Lasted, Source

pytestmark = pytest.mark.anyio

Told = tuple[Mode, Mode | None, Source]


def told(client: redis.Redis) -> list[Told]:
    """The history, the oldest first."""
    return [(switch.mode, switch.previous, switch.source) for switch in reversed(switches.read(client))]


def test_every_switch_is_kept_with_who_made_it_and_what_it_replaced(client: redis.Redis) -> None:
    mode.write(client, Mode.VLLM, Source.CLI)
    mode.write(client, Mode.OLLAMA, Source.API)
    mode.write(client, Mode.OLLAMA, Source.TASK)
    assert told(client) == [
        (Mode.VLLM, None, Source.CLI),
        (Mode.OLLAMA, Mode.VLLM, Source.API),
        (Mode.OLLAMA, Mode.OLLAMA, Source.TASK),
    ]
    seconds, micros = client.time()
    assert switches.read(client)[0].at == pytest.approx(int(seconds) + int(micros) / 1e6, abs=5)


async def test_what_was_written_by_hand_is_noted_once_by_whoever_reads_it_first(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    mode.write(client, Mode.VLLM, Source.CLI)
    client.set(keys.MODE, " Ollama ")
    for _ in range(2):
        mode.read(client, Mode.AUTO)
        await mode.cache(async_client, Mode.AUTO).read()
    assert told(client)[1:] == [(Mode.OLLAMA, Mode.VLLM, Source.RAW)]


def test_of_many_readers_that_find_it_at_once_one_notes_it(client: redis.Redis) -> None:
    client.set(keys.MODE, "vllm")
    names = keys.MODE, keys.LAST_VALID_MODE, keys.SWITCHES
    noted = [client.eval(scripts.REMEMBER_MODE, 3, *names, "vllm", "vllm") for _ in range(3)]
    assert noted == [1, 0, 0]
    assert told(client) == [(Mode.VLLM, None, Source.RAW)]


def test_what_was_written_by_hand_is_noted_though_it_was_replaced_before_anybody_read_it(client: redis.Redis) -> None:
    mode.write(client, Mode.VLLM, Source.CLI)
    client.set(keys.MODE, "auto")
    mode.write(client, Mode.OLLAMA, Source.API)
    assert told(client)[1:] == [(Mode.AUTO, Mode.VLLM, Source.RAW), (Mode.OLLAMA, Mode.AUTO, Source.API)]


def test_a_word_that_is_no_mode_is_no_switch(client: redis.Redis) -> None:
    mode.write(client, Mode.VLLM, Source.CLI)
    client.set(keys.MODE, "turbo")
    mode.read(client, Mode.AUTO)
    assert len(told(client)) == 1
    mode.write(client, Mode.AUTO, Source.CLI)
    assert told(client)[1:] == [(Mode.AUTO, Mode.VLLM, Source.CLI)]


async def test_the_default_is_told_as_such_and_not_as_written_by_hand(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    assert await mode.write_default(async_client, Mode.OLLAMA)
    mode.read(client, Mode.AUTO)
    assert told(client) == [(Mode.OLLAMA, None, Source.DEFAULT)]


async def test_the_phases_are_told_with_the_switch_that_they_followed(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    for chosen in (Mode.OLLAMA, Mode.VLLM):
        mode.write(client, chosen, Source.CLI)
    at = switches.read(client)[0].at
    drained = Lasted(engine=Engine.OLLAMA, phase=Phase.DRAINING, seconds=1.5)
    await switches.finish(async_client, Course(began=at + 1, seconds=2.0, phases=[drained]))
    assert [list(switch.phases) for switch in switches.read(client)] == [[drained], []]


async def test_an_engine_that_starts_long_after_is_not_of_the_switch(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    mode.write(client, Mode.VLLM, Source.CLI)
    at = switches.read(client)[0].at
    started = Lasted(engine=Engine.VLLM, phase=Phase.STARTING, seconds=1.5)
    await switches.finish(async_client, Course(began=at + 1000, seconds=2.0, phases=[started]))
    assert [list(switch.phases) for switch in switches.read(client)] == [[]]


async def test_a_course_of_no_switch_is_no_switch(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    await switches.finish(async_client, Course(began=1.0, seconds=2.0, phases=[]))
    assert switches.read(client) == []


def by_command(client: redis.Redis, _: int) -> None:
    mode.write(client, Mode.VLLM, Source.CLI)


def by_hand(client: redis.Redis, number: int) -> None:
    client.set(keys.MODE, list(Mode)[number % 2])
    mode.read(client, Mode.AUTO)


@pytest.mark.parametrize("switch", [by_command, by_hand])
async def test_the_last_200_are_kept(
    client: redis.Redis, async_client: redis.asyncio.Redis, switch: Callable[[redis.Redis, int], None]
) -> None:
    for number in range(scripts.SWITCHES + 5):
        switch(client, number)
    assert client.xlen(keys.SWITCHES) == scripts.SWITCHES
    await switches.finish(async_client, Course(began=1.0, seconds=2.0, phases=[]))
    assert client.xlen(keys.SWITCHES) == scripts.SWITCHES
    assert len(switches.read(client, 3)) == 3


async def test_a_history_that_cannot_be_written_keeps_nobody_from_switching(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    client.set(keys.SWITCHES, "no stream")
    assert await mode.write_default(async_client, Mode.AUTO)
    mode.write(client, Mode.VLLM, Source.CLI)
    client.set(keys.MODE, "ollama")
    assert mode.read(client, Mode.AUTO).mode is Mode.OLLAMA
    client.set(keys.MODE, "auto")
    assert mode.write(client, Mode.VLLM, Source.CLI) == "auto"
    await switches.finish(async_client, Course(began=1.0, seconds=2.0, phases=[]))
    assert mode.read(client, Mode.AUTO).mode is Mode.VLLM


def test_a_full_redis_tells_of_the_switch_that_it_takes(full: redis.Redis) -> None:
    mode.write(full, Mode.VLLM, Source.CLI)
    assert told(full) == [(Mode.VLLM, None, Source.CLI)]


def test_what_a_newer_version_adds_to_the_history_is_passed_over(client: redis.Redis) -> None:
    client.xadd(keys.SWITCHES, {"mode": "vllm", "previous": "", "source": "telepathy"})
    client.xadd(keys.SWITCHES, {"more": "news"})
    mode.write(client, Mode.VLLM, Source.CLI)
    assert told(client) == [(Mode.VLLM, None, Source.CLI)]


steps = st.lists(
    st.tuples(st.just("set"), st.sampled_from(["vllm", "OLLAMA", " auto\n", "turbo", ""]))
    | st.tuples(st.just("write"), st.sampled_from(Mode))
    | st.tuples(st.sampled_from(["read", "delete"]), st.just("")),
    max_size=12,
)


@given(steps)
@examples(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_history_is_that_of_a_model(client: redis.Redis, steps: Sequence[tuple[str, str]]) -> None:
    client.delete(keys.MODE, keys.LAST_VALID_MODE, keys.SWITCHES)
    expected: list[Told] = []
    raw: str | None = None
    last: Mode | None = None

    def note_by_hand() -> None:
        nonlocal last
        word = (raw or "").strip().lower()
        if word in set(Mode) and word != last:
            expected.append((Mode(word), last, Source.RAW))
            last = Mode(word)

    for what, value in steps:
        match what:
            case "set":
                client.set(keys.MODE, value)
                raw = value
            case "delete":
                client.delete(keys.MODE)
                raw = None
            case "read":
                mode.read(client, Mode.AUTO)
                note_by_hand()
            case "write":
                mode.write(client, Mode(value), Source.CLI)
                note_by_hand()
                expected.append((Mode(value), last if raw is not None else None, Source.CLI))
                raw, last = value, Mode(value)
    assert told(client) == expected
