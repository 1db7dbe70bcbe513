from collections.abc import Sequence

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.jobs.bitmap import Bitmap, Range, ranges_of

SIZE = 2000

numbers = st.integers(0, SIZE - 1)
ranges = st.lists(st.tuples(numbers, numbers).map(lambda pair: (min(pair), max(pair))), max_size=8)


def members(these: Sequence[Range]) -> set[int]:
    return {number for first, last in these for number in range(first, last + 1)}


@given(ranges, ranges, numbers)
def test_a_bitmap_is_the_set_of_its_ranges(put: Sequence[Range], asked: Sequence[Range], start: int) -> None:
    bitmap, model = Bitmap.of(SIZE, put), members(put)
    assert len(bitmap) == len(model)
    assert {number for number in range(SIZE) if number in bitmap} == model
    assert list(bitmap.ranges()) == ranges_of(model)
    assert list(bitmap.missing(start)) == ranges_of(set(range(start, SIZE)) - model)
    assert bitmap.overlaps(asked) == bool(model & members(asked))
    assert bytes(bitmap.copy()) == bytes(bitmap)


def test_what_is_beyond_its_size_is_refused() -> None:
    for beyond in (10, (5, 10), -1):
        with pytest.raises(IndexError):
            Bitmap(10).add(beyond)


def test_redis_reads_the_bits_as_they_lie(client: redis.Redis) -> None:
    bitmap = Bitmap.of(100, [(0, 0), (9, 12), (99, 99)])
    client.set("bits", bytes(bitmap))
    assert [number for number in range(100) if client.getbit("bits", number)] == [0, 9, 10, 11, 12, 99]
