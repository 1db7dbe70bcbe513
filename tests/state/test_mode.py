import pytest
import redis
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.errors import InvalidInput
from aegis_workers.routing import Mode
from aegis_workers.settings import Settings
from aegis_workers.state import connection, keys, mode, scripts
from aegis_workers.state.mode import ModeReading
from aegis_workers.state.switches import Source

pytestmark = pytest.mark.anyio


def test_the_name_of_the_key_is_a_public_contract() -> None:
    assert keys.MODE == "aegis:llm_engine_mode"


@pytest.mark.parametrize("word", ["vllm", "VLLM", " vLLM\n", "\tvllm "])
def test_space_and_case_around_a_mode_do_not_matter(word: str) -> None:
    assert mode.parse(word) is Mode.VLLM


@pytest.mark.parametrize("word", ["", "   ", "vllm2", "vl lm", "ollama,vllm", "null", "\0", "ﬀ"])
def test_any_other_word_is_refused_with_the_words_that_are_allowed(word: str) -> None:
    with pytest.raises(InvalidInput, match="choose vllm, ollama, auto"):
        mode.parse(word)


@given(st.none() | st.text() | st.sampled_from([" Auto ", "OLLAMA"]), st.sampled_from(Mode), st.sampled_from(Mode))
def test_whatever_the_key_holds_there_is_a_mode_and_a_word_on_what_is_wrong(raw: str | None, default: Mode, last: Mode) -> None:
    reading = mode.interpret(raw, default=default, last_valid=last)
    if raw is None:
        assert reading.mode is default
    elif raw.strip().lower() in set(Mode):
        assert reading == ModeReading(mode=Mode(raw.strip().lower()), raw=raw)
    else:
        assert reading.mode is last
    assert (reading.problem is None) == (raw is not None and raw.strip().lower() in set(Mode))


@pytest.mark.parametrize("raw", [b"", b"  ", b"both", b"\xff\xfe", b"vllm\0", "ä".encode("latin-1"), b"x" * 10_000])
async def test_a_value_that_is_no_mode_leaves_the_last_valid_one_in_force_and_is_named(
    raw: bytes, client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    cached = mode.cache(async_client, Mode.AUTO)
    client.set(keys.MODE, "ollama")
    assert (await cached.read()).value == ModeReading(mode=Mode.OLLAMA, raw="ollama")

    client.set(keys.MODE, raw)
    cached.drop()

    reading = await cached.read()
    assert not reading.stale
    assert reading.value.mode is Mode.OLLAMA
    assert reading.value.problem is not None
    assert "ollama stays in force" in reading.value.problem
    assert len(reading.value.problem) < 200


async def readings(client: redis.Redis, async_client: redis.asyncio.Redis, default: Mode) -> list[ModeReading]:
    """What a process that starts now says of the mode: a command, and a worker."""
    return [mode.read(client, default), (await mode.cache(async_client, default).read()).value]


async def test_a_process_that_starts_while_the_word_is_unknown_has_the_last_valid_mode_too(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    client.set(keys.MODE, " Ollama ")
    await mode.cache(async_client, Mode.AUTO).read()
    client.set(keys.MODE, "turbo")
    for reading in await readings(client, async_client, Mode.VLLM):
        assert reading.mode is Mode.OLLAMA
        assert reading.problem is not None
        assert "ollama stays in force" in reading.problem


async def test_the_last_valid_mode_is_that_of_the_last_switch_whoever_made_it(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    client.set(keys.MODE, "vllm")
    assert mode.read(client, Mode.AUTO).mode is Mode.VLLM
    mode.write(client, Mode.OLLAMA, Source.CLI)
    client.set(keys.MODE, "turbo")
    assert {reading.mode for reading in await readings(client, async_client, Mode.AUTO)} == {Mode.OLLAMA}


async def test_a_reader_that_was_slow_does_not_bring_an_older_mode_back(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    client.set(keys.MODE, "vllm")
    mode.write(client, Mode.OLLAMA, Source.CLI)  # between a reader's two steps
    client.eval(scripts.REMEMBER_MODE, 3, keys.MODE, keys.LAST_VALID_MODE, keys.SWITCHES, "vllm", "vllm")
    client.set(keys.MODE, "turbo")
    assert {reading.mode for reading in await readings(client, async_client, Mode.AUTO)} == {Mode.OLLAMA}


async def test_a_mode_is_remembered_once_and_not_at_every_look(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    client.set(keys.MODE, "vllm")
    await readings(client, async_client, Mode.AUTO)
    client.config_resetstat()
    await readings(client, async_client, Mode.AUTO)
    assert "cmdstat_set" not in client.info("commandstats")


async def test_a_full_redis_still_says_what_the_mode_is(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    client.set(keys.MODE, "vllm")
    client.config_set("maxmemory", "1")
    try:
        assert {reading.mode for reading in await readings(client, async_client, Mode.AUTO)} == {Mode.VLLM}
    finally:
        client.config_set("maxmemory", "0")


async def test_without_any_valid_mode_so_far_the_configured_default_is_in_force(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    client.set(keys.MODE, "turbo")
    assert {reading.mode for reading in await readings(client, async_client, Mode.VLLM)} == {Mode.VLLM}


async def test_a_key_of_another_type_leaves_the_last_valid_mode_in_force_and_is_named(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    mode.write(client, Mode.OLLAMA, Source.CLI)
    client.delete(keys.MODE)
    client.hset(keys.MODE, "mode", "vllm")
    for reading in await readings(client, async_client, Mode.AUTO):
        assert reading.mode is Mode.OLLAMA
        assert reading.problem is not None
        assert "holds a hash and no word" in reading.problem


def test_a_switch_replaces_a_key_of_another_type(client: redis.Redis) -> None:
    client.hset(keys.MODE, "mode", "vllm")
    assert mode.write(client, Mode.OLLAMA, Source.CLI) is None
    assert client.get(keys.MODE) == "ollama"


async def test_a_missing_key_means_the_configured_default(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    for reading in (mode.read(client, Mode.VLLM), (await mode.cache(async_client, Mode.VLLM).read()).value):
        assert reading.mode is Mode.VLLM
        assert reading.problem is not None
        assert "is not set" in reading.problem


def test_a_switch_returns_what_it_replaced_and_leaves_plain_text_without_a_ttl(client: redis.Redis) -> None:
    assert mode.write(client, Mode.VLLM, Source.CLI) is None
    assert mode.write(client, Mode.OLLAMA, Source.CLI) == "vllm"
    assert client.get(keys.MODE) == "ollama"
    assert client.ttl(keys.MODE) == -1


def test_a_switch_ends_a_ttl_that_somebody_set(client: redis.Redis) -> None:
    client.set(keys.MODE, "both", ex=100)
    assert mode.write(client, Mode.AUTO, Source.CLI) == "both"
    assert client.ttl(keys.MODE) == -1


async def test_the_default_is_written_only_where_the_key_is_absent(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    assert await mode.write_default(async_client, Mode.VLLM)
    assert not await mode.write_default(async_client, Mode.OLLAMA)
    assert client.get(keys.MODE) == "vllm"
    client.set(keys.MODE, "")
    assert not await mode.write_default(async_client, Mode.OLLAMA)


async def test_without_a_redis_the_configured_default_is_in_force_and_stale() -> None:
    nobody = Settings(_env_file=None, redis_url="redis://127.0.0.1:1/0")
    async with connection.open_async(nobody) as client:
        reading = await mode.cache(client, Mode.VLLM).read()
    assert reading.stale
    assert reading.value.mode is Mode.VLLM


def test_a_full_redis_still_takes_a_switch_because_that_may_be_what_empties_it(full: redis.Redis) -> None:
    assert mode.write(full, Mode.VLLM, Source.CLI) is None
    assert mode.write(full, Mode.OLLAMA, Source.CLI) == "vllm"
    assert full.get(keys.MODE) == "ollama"
