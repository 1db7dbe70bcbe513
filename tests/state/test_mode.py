import pytest
import redis
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.errors import InvalidInput
from aegis_workers.routing import Mode
from aegis_workers.settings import Settings
from aegis_workers.state import connection, keys, mode
from aegis_workers.state.mode import ModeReading

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
        assert reading == ModeReading(mode=Mode(raw.strip().lower()))
    else:
        assert reading.mode is last
    assert (reading.problem is None) == (raw is not None and raw.strip().lower() in set(Mode))


@pytest.mark.parametrize("raw", [b"", b"  ", b"both", b"\xff\xfe", b"vllm\0", "ä".encode("latin-1"), b"x" * 10_000])
async def test_a_value_that_is_no_mode_leaves_the_last_valid_one_in_force_and_is_named(
    raw: bytes, client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    cached = mode.cache(async_client, Mode.AUTO)
    client.set(keys.MODE, "ollama")
    assert (await cached.read()).value == ModeReading(mode=Mode.OLLAMA)

    client.set(keys.MODE, raw)
    cached.drop()

    reading = await cached.read()
    assert not reading.stale
    assert reading.value.mode is Mode.OLLAMA
    assert reading.value.problem is not None
    assert "ollama stays in force" in reading.value.problem
    assert len(reading.value.problem) < 200


async def test_a_key_of_another_type_leaves_the_last_valid_mode_in_force(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    cached = mode.cache(async_client, Mode.OLLAMA)
    client.hset(keys.MODE, "mode", "vllm")
    assert (await cached.read()).value.mode is Mode.OLLAMA


def test_a_switch_replaces_a_key_of_another_type(client: redis.Redis) -> None:
    client.hset(keys.MODE, "mode", "vllm")
    assert mode.write(client, Mode.OLLAMA) is None
    assert client.get(keys.MODE) == "ollama"


async def test_a_missing_key_means_the_configured_default(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    for reading in (mode.read(client, Mode.VLLM), (await mode.cache(async_client, Mode.VLLM).read()).value):
        assert reading.mode is Mode.VLLM
        assert reading.problem is not None
        assert "is not set" in reading.problem


def test_a_switch_returns_what_it_replaced_and_leaves_plain_text_without_a_ttl(client: redis.Redis) -> None:
    assert mode.write(client, Mode.VLLM) is None
    assert mode.write(client, Mode.OLLAMA) == "vllm"
    assert client.get(keys.MODE) == "ollama"
    assert client.ttl(keys.MODE) == -1


def test_a_switch_ends_a_ttl_that_somebody_set(client: redis.Redis) -> None:
    client.set(keys.MODE, "both", ex=100)
    assert mode.write(client, Mode.AUTO) == "both"
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
    assert mode.write(full, Mode.VLLM) is None
    assert mode.write(full, Mode.OLLAMA) == "vllm"
    assert full.get(keys.MODE) == "ollama"
