"""Whether each id of a job stands for one item: 8 bytes an id, however long the ids are."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

_PARTITIONS = 256
_TOP_BYTE = 56
# Of an input that stands there twice, not every id need be remembered to refuse it.
_MAX_SUSPECTS = 1000


class Ids:
    """The hashes of ids. Two ids can share one, so that a hash that is there twice is a suspicion and no more."""

    def __init__(self) -> None:
        self._partitions = [array("q") for _ in range(_PARTITIONS)]

    def add(self, custom_id: str) -> None:
        """Note one id."""
        hashed = hash(custom_id)
        self._partitions[(hashed >> _TOP_BYTE) & (_PARTITIONS - 1)].append(hashed)

    def suspects(self) -> frozenset[int]:
        """Up to a thousand hashes that are there more than once; one partition at a time takes memory."""
        twice = (_more_than_once(partition) for partition in self._partitions)
        return frozenset(islice((hashed for hashes in twice for hashed in hashes), _MAX_SUSPECTS))


def doubled(suspects: frozenset[int], ids: Iterable[tuple[int, str]]) -> Iterator[tuple[int, int]]:
    """Of numbered ids, those that were there before: the number of the first with the same id, and its own."""
    first: dict[str, int] = {}
    for number, custom_id in ids:
        if hash(custom_id) in suspects:
            earlier = first.setdefault(custom_id, number)
            if earlier != number:
                yield earlier, number


def _more_than_once(partition: "array[int]") -> list[int]:
    if len(set(partition)) == len(partition):
        return []
    return [hashed for hashed, times in Counter(partition).items() if times > 1]
