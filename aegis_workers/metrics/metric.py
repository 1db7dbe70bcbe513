"""A metric as it is declared: its name, its help, and every value that each of its labels can have."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

# Stands for a value that is not among those declared: whatever is told, the number of series is bounded.
OTHER: Final = "other"

# Of what takes a round trip to Redis; of what takes as long as an engine answers, up to the limit of an attempt; of an engine's
# phases, which last until it has loaded its model. In seconds.
QUICK_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
CALL_S: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 90.0, 120.0)
PHASE_S: Final = (0.05, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0)

# By the label values, in the order of the labels.
Values = Mapping[tuple[str, ...], float]


class Kind(StrEnum):
    """What Prometheus makes of it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. `name` as it is queried, without the suffixes of a histogram; `labels` have all values that they can have."""

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    buckets: Sequence[float] = CALL_S

    @property
    def most_series(self) -> int:
        """How many series one process can show of it."""
        each = len(self.buckets) + 3 if self.kind is Kind.HISTOGRAM else 1
        return each * math.prod(len(values) + 1 for values in self.labels.values())

    def bounded(self, values: Sequence[str]) -> tuple[str, ...]:
        """These label values, with `OTHER` for each that is not declared."""
        declared = self.labels.values()
        return tuple(value if value in known else OTHER for value, known in zip(values, declared, strict=True))


def one_of(word: str | None, words: Sequence[str]) -> Values:
    """A state as Prometheus has it: 1 for the word that holds, 0 for the others."""
    return {(each,): float(each == word) for each in words}
