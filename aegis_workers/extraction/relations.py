"""One list of relations from the answers of a document's chunks, between the document's entities."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aegis_workers.extraction.aliases import Key
from aegis_workers.extraction.entities import Answer, Entities, Sighting, longest, most_common
from aegis_workers.extraction.folding import fold

# An entity; or a folded name that is none.
End = Key | str
RelationKey = tuple[End, str, End]


def merge(answers: Sequence[Answer], entities: Entities) -> list[dict[str, Any]]:
    """The relations of `answers`, in text order, with the names that `entities` have.

    The same source, verb and target is the same relation: its strength is the highest, its description the longest. A relation
    is marked `ungrounded` where an end of it is no entity, or one that the text does not name.
    """
    groups: dict[RelationKey, list[Mapping[str, Any]]] = {}
    for source, target, relation in _repointed(answers, entities):
        groups.setdefault((source, fold(relation["relation"]), target), []).append(relation)
    return [_relation(group) for group in groups.values()]


def _repointed(answers: Sequence[Answer], entities: Entities) -> Iterator[tuple[End, End, dict[str, Any]]]:
    by_chunk: dict[int, list[Sighting]] = {}
    for sighting in entities.sightings:
        by_chunk.setdefault(sighting.chunk.index, []).append(sighting)
    anywhere = _Meanings(entities.sightings, entities)
    for chunk, data in answers:
        meanings = [anywhere] if len(answers) == 1 else [_Meanings(by_chunk.get(chunk.index, ()), entities), anywhere]
        for relation in data["relations"]:
            keys = {end: _key(relation[end], meanings) for end in ("source", "target")}
            found = {end: entities.merged[key] for end, key in keys.items() if key is not None}
            names = {end: entity["name"] for end, entity in found.items()}
            is_grounded = len(found) == len(keys) and not any("ungrounded" in entity for entity in found.values())
            source, target = (key or fold(relation[end]) for end, key in keys.items())
            yield source, target, dict(relation) | names | {"ungrounded": not is_grounded}


class _Meanings:
    """What words mean among some sightings: names before other forms, the first entity before later ones.

    A name means first of all what is spelled exactly like it: "Turkey" and "turkey" may both be there.
    """

    def __init__(self, sightings: Sequence[Sighting], entities: Entities) -> None:
        self._spelled: dict[str, Key] = {}
        self._folded: dict[str, Key] = {}
        for sighting in sightings:
            self._spelled.setdefault(sighting.entity["name"], entities.key(sighting))
            self._folded.setdefault(sighting.name, entities.key(sighting))
        for sighting in sightings:
            for form in sighting.forms():
                self._folded.setdefault(form, entities.key(sighting))

    def of(self, name: str) -> Key | None:
        return self._spelled.get(name) or self._folded.get(fold(name))


def _key(name: str, meanings: Iterable[_Meanings]) -> Key | None:
    return next(filter(None, (known.of(name) for known in meanings)), None)


def _relation(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        part: most_common(relation[part] for relation in group) for part in ("source", "relation", "target")
    }
    fields["description"] = longest(relation["description"] for relation in group)
    fields["strength"] = max(relation["strength"] for relation in group)
    return fields | ({"ungrounded": True} if all(relation["ungrounded"] for relation in group) else {})
