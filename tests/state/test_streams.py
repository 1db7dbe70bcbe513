from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.exceptions import RedisError

from aegis_workers.state import keys, streams
from aegis_workers.state.streams import End, Hold, Reader, Writer

pytestmark = pytest.mark.anyio

TASK = "task-1"
RESULT = {"status": "ok", "text": "Hello, wörld\n"}


@pytest.fixture
def reader(client: redis.Redis) -> Reader:
    reader = Reader(client, TASK)
    reader.present()
    return reader


@pytest.fixture
def writer(async_client: redis.asyncio.Redis) -> Writer:
    return Writer(async_client, TASK)


@pytest.fixture
def second(async_client: redis.asyncio.Redis) -> Writer:
    """The writer of a second delivery of the same task."""
    return Writer(async_client, TASK)


def entries(reader: Reader) -> list[str | End]:
    """What came since the last read, in one look that does not wait."""
    return list(reader.read(block_s=0.001))


async def test_what_is_written_is_read_once_in_order_and_ends_with_the_result(reader: Reader, writer: Writer) -> None:
    assert await writer.begin()
    assert await writer.write("Hello, ") is Hold.READ
    assert entries(reader) == ["Hello, "]
    await writer.write("wörld")
    await writer.write("\n")
    await writer.end(RESULT)
    assert entries(reader) == ["wörld", "\n", End(result=RESULT)]
    assert entries(reader) == []


async def test_a_reader_that_comes_late_reads_all(reader: Reader, writer: Writer, client: redis.Redis) -> None:
    await writer.begin()
    await writer.write("a")
    entries(reader)
    await writer.end(RESULT)
    assert entries(Reader(client, TASK)) == ["a", End(result=RESULT)]


async def test_a_writer_learns_whether_anybody_reads(reader: Reader, writer: Writer) -> None:
    await writer.begin()
    assert await writer.write("") is Hold.READ
    reader.leave()
    assert await writer.write("") is Hold.UNREAD
    assert await writer.write("a") is Hold.UNREAD
    reader.present()
    assert await writer.write("") is Hold.READ


async def test_an_empty_piece_asks_and_adds_nothing(reader: Reader, writer: Writer) -> None:
    await writer.begin()
    await writer.write("")
    assert entries(reader) == []


async def test_a_second_delivery_takes_over_a_stream_in_which_nothing_stands(
    reader: Reader, writer: Writer, second: Writer
) -> None:
    assert await writer.begin()
    assert await second.begin()
    assert await writer.write("late") is Hold.TAKEN_OVER
    assert await writer.end(RESULT) is Hold.TAKEN_OVER
    await second.write("whole")
    assert entries(reader) == ["whole"]


async def test_a_second_delivery_ends_a_stream_that_holds_text_as_interrupted_and_fences_the_first(
    reader: Reader, writer: Writer, second: Writer
) -> None:
    await writer.begin()
    await writer.write("half")
    assert not await second.begin()
    assert await writer.write(" more") is Hold.TAKEN_OVER
    assert entries(reader) == ["half", End(result={"status": "interrupted"})]


async def test_a_second_delivery_leaves_a_stream_that_has_ended_as_it_is(reader: Reader, writer: Writer, second: Writer) -> None:
    await writer.begin()
    await writer.write("all")
    await writer.end(RESULT)
    assert not await second.begin()
    assert entries(reader) == ["all", End(result=RESULT)]


async def test_an_append_that_was_sent_twice_is_seen_once(
    reader: Reader, writer: Writer, async_client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a connection that was lost between the command and its answer."""
    once = async_client.eval

    async def twice(*arguments: Any) -> Any:
        await once(*arguments)
        return await once(*arguments)

    monkeypatch.setattr(async_client, "eval", twice)
    assert await writer.begin()
    assert await writer.write("a") is Hold.READ
    assert await writer.write("b") is Hold.READ
    await writer.end(RESULT)
    assert entries(reader) == ["a", "b", End(result=RESULT)]


async def test_an_append_whose_answer_was_lost_is_seen_once_when_its_writer_tries_again(
    reader: Reader, writer: Writer, async_client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = async_client.eval

    async def unanswered(*arguments: Any) -> Any:
        await once(*arguments)
        monkeypatch.setattr(async_client, "eval", once)
        raise RedisError("the answer was lost")

    await writer.begin()
    monkeypatch.setattr(async_client, "eval", unanswered)
    with pytest.raises(RedisError):
        await writer.write("a")
    await writer.write("a")
    await writer.write("b")
    assert entries(reader) == ["a", "b"]


@pytest.fixture
def full(client: redis.Redis) -> Iterator[redis.Redis]:
    """A Redis that has no room left, once `maxmemory` is set to 1."""
    yield client
    client.config_set("maxmemory", "0")


async def test_a_piece_that_a_full_redis_did_not_take_is_an_error_and_no_hole_in_the_answer(
    full: redis.Redis, writer: Writer
) -> None:
    await writer.begin()
    await writer.write("a")
    full.config_set("maxmemory", "1")
    with pytest.raises(RedisError):
        await writer.write("b")


@pytest.mark.usefixtures("reader")
async def test_all_that_a_stream_leaves_in_redis_ends_by_itself(writer: Writer, second: Writer, client: redis.Redis) -> None:
    async def all_end() -> bool:
        left = list(client.scan_iter("*"))
        return bool(left) and all(0 < int(client.pttl(key)) <= streams.TTL_S * 1000 for key in left)

    assert await all_end()  # the reader alone
    await writer.begin()
    assert await all_end()
    await writer.write("a")
    assert await all_end()
    assert client.exists(keys.stream(TASK), keys.stream_writer(TASK), keys.stream_reader(TASK)) == 3
    await second.begin()
    assert await all_end()
    await writer.end(RESULT)
    assert await all_end()


async def test_a_stream_that_is_written_to_lives_on(writer: Writer, client: redis.Redis) -> None:
    await writer.begin()
    await writer.write("a")
    for key in (keys.stream(TASK), keys.stream_writer(TASK)):
        client.pexpire(key, 5000)
    await writer.write("b")
    assert all(int(client.pttl(key)) > 60_000 for key in (keys.stream(TASK), keys.stream_writer(TASK)))


def test_a_reader_of_a_stream_that_does_not_exist_finds_nothing(reader: Reader) -> None:
    assert entries(reader) == []


def test_a_reader_stays_present_on_a_redis_that_fills_up(reader: Reader, client: redis.Redis, full: redis.Redis) -> None:
    client.pexpire(keys.stream_reader(TASK), 1000)
    reader.present()
    assert full.pttl(keys.stream_reader(TASK)) > 5000
