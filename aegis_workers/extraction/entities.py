"""One list of entities from the answers of a document's chunks: the same name and type is the same entity."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aegis_workers.extraction import aliases, mentions, spacing
from aegis_workers.extraction.aliases import Called, Key
from aegis_workers.extraction.chunking import Chunk
from aegis_workers.extraction.folding import fold
from aegis_workers.extraction.grounding import Span, public

Answer = tuple[Chunk, Mapping[str, Any]]

# After every place of every text.
_NOWHERE = 2**63


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """An entity as one chunk's answer has it, under the name that the text has for it.

    `words`: the text at each of its spans, with single spaces.
    """

    chunk: Chunk
    key: Key
    entity: Mapping[str, Any]
    sight: mentions.Sight
    words: Mapping[Span, str]

    @property
    def name(self) -> str:
        """The answer's own name for it, folded."""
        return fold(self.entity["name"])

    def forms(self) -> set[str]:
        """The forms of it that the text has, folded."""
        return set(map(fold, set(self.words.values())))


@dataclass(frozen=True, kw_only=True)
class Entities:
    """The entities of a document in their public form, in text order, and what each chunk called them."""

    merged: Mapping[Key, Mapping[str, Any]]
    sightings: tuple[Sighting, ...]
    whole: Mapping[Key, Key]

    def key(self, sighting: Sighting) -> Key:
        """The entity that `sighting` became part of."""
        return self.whole.get(sighting.key, sighting.key)


def merge(answers: Sequence[Answer]) -> Entities:
    """The entities of `answers`, which are in text order and grounded. Their mentions are unique and in text order.

    The name is the spelling that the text has most often (then the earliest, then the lexically first), the type the one that
    answers have most often, the confidence the highest, the description the longest. A name that the text does not have gives
    way to the longest form that it does.
    """
    sightings = _named_by_the_text(tuple(_sightings(answers)))
    whole = _names_in_short(sightings) if len(answers) > 1 else {}
    groups = _grouped(sightings, whole)
    places = mentions.resolve({key: [sighting.sight for sighting in group] for key, group in groups.items()})
    merged = {key: _entity(key, groups[key], spans) for key, spans in places.spans.items()}
    in_order = sorted(merged, key=lambda key: (min(places.spans[key], default=(_NOWHERE, 0)), key))
    whole = {key: places.whole.get(other, other) for key, other in whole.items()}
    return Entities(merged={key: merged[key] for key in in_order}, sightings=sightings, whole={**places.whole, **whole})


def _grouped(sightings: Iterable[Sighting], whole: Mapping[Key, Key]) -> dict[Key, list[Sighting]]:
    groups: dict[Key, list[Sighting]] = {}
    for sighting in sightings:
        groups.setdefault(whole.get(sighting.key, sighting.key), []).append(sighting)
    return groups


def _named_by_the_text(sightings: Sequence[Sighting]) -> tuple[Sighting, ...]:
    """The same; an entity whose name the text does not have goes by the longest form of it that the text has."""
    names: dict[Key, str] = {}
    for key, group in _grouped(sightings, {}).items():
        found = set[str]().union(*(sighting.forms() for sighting in group))
        if found and key[0] not in found:
            names[key] = longest(found)
    return tuple(replace(one, key=(names[one.key], one.key[1])) if one.key in names else one for one in sightings)


def _names_in_short(sightings: Sequence[Sighting]) -> dict[Key, Key]:
    nested = mentions.containers({span for sighting in sightings for span in sighting.words}).keys()
    return aliases.resolve(
        [
            Called(
                chunk=sighting.chunk.index,
                key=sighting.key,
                forms={fold(form) for span, form in sighting.words.items() if span not in nested},
            )
            for sighting in sightings
        ]
    )


def _sightings(answers: Sequence[Answer]) -> Iterator[Sighting]:
    for chunk, data in answers:
        opens, closes = chunk.index > answers[0][0].index, chunk.index < answers[-1][0].index
        for entity in data["entities"]:
            spans = frozenset((mention["start"], mention["end"]) for mention in entity["mentions"] if "start" in mention)
            yield Sighting(
                chunk=chunk,
                key=(fold(entity["name"]), fold(entity["type"])),
                entity=entity,
                sight=mentions.Sight(
                    spans=spans,
                    cut=frozenset(span for span in spans if _is_cut(span, chunk, opens=opens, closes=closes)),
                ),
                words={span: spacing.single(chunk.text[span[0] - chunk.start : span[1] - chunk.start]) for span in spans},
            )


def _is_cut(span: Span, chunk: Chunk, *, opens: bool, closes: bool) -> bool:
    """Whether the chunk has no word between `span` and an edge beyond which the text goes on."""
    before = chunk.text[: span[0] - chunk.start]
    after = chunk.text[span[1] - chunk.start :]
    return (opens and not _has_word(before)) or (closes and not _has_word(after))


def _has_word(text: str) -> bool:
    return any(map(str.isalnum, text))


def _entity(key: Key, group: Sequence[Sighting], spans: frozenset[Span]) -> Mapping[str, Any]:
    words = {span: form for sighting in group for span, form in sighting.words.items()}
    forms = {fold(form) for form in set(words.values())}
    missing = {fold(m["text"]): m["text"] for sighting in reversed(group) for m in sighting.entity["mentions"] if "text" in m}
    chosen = {
        "name": _name(key[0], words) or min(sighting.entity["name"] for sighting in group if sighting.key == key),
        "type": most_common(sighting.entity["type"] for sighting in group),
        "description": longest(sighting.entity["description"] for sighting in group),
        "confidence": max(sighting.entity["confidence"] for sighting in group),
    }
    return public(chosen, set(spans), sorted(text for form, text in missing.items() if form not in forms))


def _name(folded: str, words: Mapping[Span, str]) -> str | None:
    """The spelling of the name `folded` that the text has most often; None where it has none."""
    spelled = {span: form for span, form in words.items() if fold(form) == folded}
    counts = Counter(spelled.values())
    first = min(spelled, key=lambda span: (-counts[spelled[span]], span), default=None)
    return None if first is None else spelled[first]


def most_common(values: Iterable[str]) -> str:
    """The value that is there most often; of several, the lexically first."""
    found = list(values)
    if len(found) == 1:  # as nearly all are, and a Counter costs more than the rest of their merging
        return found[0]
    counts = Counter(found)
    return min(counts, key=lambda value: (-counts[value], value))


def longest(values: Iterable[str]) -> str:
    """The longest value, which says most; of several, the lexically first."""
    return min(values, key=lambda value: (-len(value), value))
