"""A small, honest reading of a text by rules: names by their capitals, relations by the verbs between two names.

It understands nothing. It finds enough in ordinary prose to show what an engine's answer looks like.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

from aegis_workers.simulator import lexicon, spans
from aegis_workers.simulator.spans import Span

# The reading of a text this often asked again costs nothing: a job repeats none, a load test few.
_REMEMBERED = 128
# The strength of a relation whose verb stands directly between its names; each word more makes it weaker.
_STRONGEST = 8
# Words that may stand between a verb and the name that it leads to.
_MOST_WORDS = 4


@dataclass(kw_only=True)
class _Entity:
    name: str
    type: str
    confidence: float
    description: str
    mentions: list[str] = field(default_factory=list)


def read(text: str) -> dict[str, Any]:
    """What the text says, in the fields of the default extraction schema: `entities` and `relations`, either may be empty.

    Mentions are exact words of the text. Names, types and relations are guesses. The answer is shared: leave it as it is.
    """
    return _read(text)


@lru_cache(maxsize=_REMEMBERED)
def _read(text: str) -> dict[str, Any]:
    words = set(text.split())
    found = [(text[start:end], list(spans.find(text, start, end, words))) for start, end in spans.sentences(text)]
    certain = {span.surface for _, among in found for span in among if not span.opens}
    entities: dict[str, _Entity] = {}
    relations: list[dict[str, Any]] = []
    for sentence, among in found:
        described = " ".join(sentence.split())
        named = [(span, _note(span, described, entities)) for span in among if spans.is_name(span, text, certain)]
        relations += _relations(text, described, named)
    return {"entities": [vars(entity) for entity in entities.values()], "relations": relations}


def _note(span: Span, sentence: str, entities: dict[str, _Entity]) -> _Entity:
    """The entity that the span names, with one mention more; a surname alone means the person named before."""
    name = " ".join(span.words)
    known = entities.get(name.casefold()) or _person_called(name, entities)
    if known is None:
        kind, confidence = _guess_type(span)
        known = _Entity(name=name, type=kind, confidence=confidence, description=sentence)
        entities[name.casefold()] = known
    if span.surface not in known.mentions:
        known.mentions.append(span.surface)
    return known


def _person_called(surname: str, entities: dict[str, _Entity]) -> _Entity | None:
    people = (entity for entity in entities.values() if entity.type == "person")
    return next((entity for entity in people if entity.name.endswith(f" {surname}")), None)


def _guess_type(span: Span) -> tuple[str, float]:
    """A type and how sure it is: the first cue that holds."""
    words = [word.strip(".,") for word in span.words]
    given_name = words[0] in lexicon.GIVEN_NAMES
    mixed_capitals = not span.surface.isupper() and not span.surface[1:].islower()
    cues = (
        ("organisation", 0.9, any(word in lexicon.ORGANISATION_WORDS for word in words)),
        ("person", 0.9, words[0] in lexicon.TITLES or (given_name and len(words) > 1)),
        ("place", 0.9, words[-1] in lexicon.PLACES or any(word in lexicon.PLACE_WORDS for word in words)),
        ("product", 0.7, any(character.isdigit() for character in span.surface)),
        ("person", 0.6, given_name or (span.before == "by" and len(words) == len(("first", "last")))),
        ("place", 0.6, span.before in lexicon.PLACE_PREPOSITIONS and not span.surface.isupper()),
        ("organisation", 0.5, len(words) == 1 and mixed_capitals),
        ("concept", 0.5, True),
    )
    return next((kind, confidence) for kind, confidence, holds in cues if holds)


def _relations(text: str, sentence: str, named: list[tuple[Span, _Entity]]) -> Iterator[dict[str, Any]]:
    """One relation for each two neighbouring names that a verb stands between."""
    for (left, source), (right, target) in pairwise(named):
        verb, left_over = _verb_of(text[left.end : right.start].split())
        if verb and source is not target:
            yield {
                "source": source.name,
                "relation": verb,
                "target": target.name,
                "description": sentence,
                "strength": _STRONGEST - left_over,
            }


def _verb_of(words: list[str]) -> tuple[str, int]:
    """The verb that the words between two names begin with, and how many words follow it; empty where there is none."""
    first = next((index for index, word in enumerate(words) if word.strip(",") not in lexicon.BEFORE_VERBS), len(words))
    phrase = words[first : first + 1]
    rest = words[first + 1 :]
    if rest and phrase[0] in lexicon.AUXILIARIES and lexicon.is_verb(rest[0]):
        phrase.append(rest.pop(0))
    if rest and rest[0] in lexicon.VERB_PREPOSITIONS:
        phrase.append(rest.pop(0))
    only_articles = all(word in lexicon.ARTICLES for word in rest)
    if not phrase or not (lexicon.is_verb(phrase[0]) or (only_articles and lexicon.looks_like_verb(phrase[0]))):
        return "", 0
    plain = len(rest) <= _MOST_WORDS and all(word.isalpha() and word not in lexicon.CLAUSE_WORDS for word in rest)
    return (" ".join(phrase), len(rest)) if plain else ("", 0)
