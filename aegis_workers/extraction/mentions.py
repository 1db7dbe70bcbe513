"""Which of the places found for all entities of a document are mentions of their own.

Two rules, over the whole document, so that the result depends neither on where chunks were cut nor on which ended first:

- Words inside longer words belong to the longer ones: "Smith" in "Smith Industries" is no mention of a person Smith, unless the
  text names Smith nowhere else.
- Words at the cut edge of a chunk that a neighbour saw as part of longer words are a fragment: "Acme" at the end of a chunk,
  where the next one, which begins earlier, has "Acme Corporation". An entity that stands only inside longer words, and that
  every answer which has it may owe to a fragment, is the longer one's entity.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Span = tuple[int, int]
Owner = TypeVar("Owner")


@dataclass(frozen=True, kw_only=True)
class Places(Generic[Owner]):
    """The spans that stay, for each owner in the given order; and for each owner that was a fragment, the one it is part of."""

    spans: Mapping[Owner, frozenset[Span]]
    whole: Mapping[Owner, Owner]


@dataclass(frozen=True, kw_only=True)
class Sight:
    """Where one chunk's answer has an owner; `cut` are those of the spans that touch an edge where the text goes on."""

    spans: frozenset[Span]
    cut: frozenset[Span]


def resolve(sights: Mapping[Owner, Sequence[Sight]]) -> Places[Owner]:
    """What stays of the spans of all `sights`. Takes n log n."""
    found = {owner: frozenset[Span]().union(*(sight.spans for sight in seen)) for owner, seen in sights.items()}
    owners: dict[Span, list[Owner]] = {}
    for owner, places in found.items():
        for span in places:
            owners.setdefault(span, []).append(owner)
    around = containers(owners)
    spans: dict[Owner, frozenset[Span]] = {}
    whole: dict[Owner, Owner] = {}
    for owner, places in found.items():
        fragments = frozenset[Span]().union(*(sight.cut for sight in sights[owner]))
        free = places - around.keys()
        if places and not free and all(sight.cut for sight in sights[owner] if sight.spans):
            whole[owner] = owners[around[min(fragments)]][0]
        else:
            spans[owner] = free or places
    return Places(spans=spans, whole=whole)


def containers(spans: Iterable[Span]) -> dict[Span, Span]:
    """For each span that lies inside a longer one, a longest one around it."""
    around: dict[Span, Span] = {}
    widest = (-1, -1)
    for span in sorted(spans, key=lambda span: (span[0], -span[1])):
        if span[1] <= widest[1]:
            around[span] = widest
        else:
            widest = span
    return around
