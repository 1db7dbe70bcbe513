"""A set of numbers from 0 to a bound, one bit each."""

from collections.abc import Iterable, Iterator
from typing import Self

# First and last, both inclusive.
Range = tuple[int, int]

_FULL = 0xFF


class Bitmap:
    """Numbers below `size`. The bits lie as Redis has them: number 0 is the highest bit of the first byte."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._bits = bytearray((size + 7) // 8)
        self._count = 0

    @classmethod
    def of(cls, size: int, ranges: Iterable[Range]) -> Self:
        """The numbers in `ranges`."""
        bitmap = cls(size)
        for each in ranges:
            bitmap.add(each)
        return bitmap

    def copy(self) -> Self:
        """Another set with the same numbers."""
        return type(self).of(self.size, self.ranges())

    def __contains__(self, number: int) -> bool:
        return bool(self._bits[number >> 3] & (0x80 >> (number & 7)))

    def __len__(self) -> int:
        return self._count

    def __bytes__(self) -> bytes:
        return bytes(self._bits)

    def add(self, numbers: int | Range) -> None:
        """Put a number, or a range, into the set. Raises `IndexError` beyond `size`."""
        first, last = (numbers, numbers) if isinstance(numbers, int) else numbers
        if not 0 <= first <= last < self.size:
            raise IndexError(f"{first} to {last} is not within {self.size} numbers")
        number = first
        while number <= last:
            byte = number >> 3
            upto = min(last, (byte << 3) | 7)
            mask = (_FULL >> (number & 7)) & (_FULL << (7 - (upto & 7)))
            self._count += (mask & ~self._bits[byte]).bit_count()
            self._bits[byte] |= mask
            number = upto + 1

    def overlaps(self, ranges: Iterable[Range]) -> bool:
        """Whether any number of `ranges` is in the set."""
        return any(next(self._runs(first, last, wanted=True), None) for first, last in ranges)

    def ranges(self) -> Iterator[Range]:
        """The numbers in the set."""
        return self._runs(0, self.size - 1, wanted=True)

    def missing(self, first: int = 0) -> Iterator[Range]:
        """The numbers from `first` that are not in the set."""
        return self._runs(first, self.size - 1, wanted=False)

    def _runs(self, first: int, last: int, *, wanted: bool) -> Iterator[Range]:
        start = self._next(first, last, wanted=wanted)
        while start <= last:
            end = self._next(start, last, wanted=not wanted)
            yield start, end - 1
            start = self._next(end, last, wanted=wanted)

    def _next(self, number: int, last: int, *, wanted: bool) -> int:
        """The first number from `number` that is in the set as `wanted` says; `last + 1` where none is."""
        uniform = b"\0" if wanted else b"\xff"
        while number <= last:
            if number & 7 == 0:  # whole bytes without any: as many at once as there are
                rest = memoryview(self._bits)[number >> 3 : (last >> 3) + 1]
                number += _leading(rest, uniform) * 8
                if number > last:
                    break
            if (number in self) is wanted:
                return number
            number += 1
        return last + 1


def _leading(data: memoryview, byte: bytes) -> int:
    """How many bytes at the beginning of `data` are `byte`."""
    count, step = 0, 64
    while count < len(data):
        block = data[count : count + step]
        if block == byte * len(block):
            count += len(block)
            step = min(step * 2, 65_536)
        elif step > 1:
            step //= 2
        else:
            break
    return count


def ranges_of(numbers: Iterable[int]) -> list[Range]:
    """The same numbers as ranges, sorted, each as long as it can be."""
    ranges: list[Range] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges
