"""An engine that answers from the gold: rightly for the chunk that it is shown, unless its plan is to spoil the answer."""

import random
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gold_cast import Entity
from gold_corruption import Answer, Corruption, spoil
from gold_documents import Gold, Mention, Span, is_inside

from aegis_workers.completion import Message

# What an engine takes for the document: all from the first mark to the next one that ends it.
_SHOWN = re.compile(r"<text>\n(.*?)\n?</text>", re.DOTALL)
# Marks inside the document come with another bracket of the same width.
_BRACKETS = str.maketrans("<", "\u2039")
# Names nobody would choose where there is another one.
_FRAGMENT = 99

# How many answers do not copy a name to the letter: its lines are joined, its letters composed.
_TIDY_SHARE = 0.5

# Which corruption the answer for a chunk gets: by its own randomness, and by how often it was asked for before.
Plan = Callable[[random.Random, int], Corruption | None]
# The words by which a chunk names each entity, with the rank of the form that they are: 0 is the fullest.
Forms = dict[Entity, dict[str, int]]


def answer_rightly(_rng: random.Random, _asked: int) -> Corruption | None:
    """The plan that spoils nothing."""
    return None


class ScriptedEngine:
    """Reads as a model does: it sees the words of one chunk, and says words.

    It names an entity by the fullest form that stands whole in the chunk, and states what a span that stands whole in it states;
    of a sentence that the chunk's edge cuts it states nothing. With `names_fragments` it takes what the edge leaves of a mention
    for a name. The same chunk gets the same answer, whenever it comes.
    """

    def __init__(self, gold: Gold, *, seed: int = 0, plan: Plan = answer_rightly, names_fragments: bool = False) -> None:
        self._gold = gold
        self._text = gold.text.translate(_BRACKETS)
        self._seed = seed
        self._plan = plan
        self._names_fragments = names_fragments

    def answer(self, messages: Sequence[Message], asked: int = 0) -> Answer:
        """The answer to `messages`, which were sent `asked` times before. Raises `ValueError` where they show no text."""
        shown = _SHOWN.search(messages[-1].content)
        if shown is None:
            raise ValueError("the last message shows no text")
        rng = random.Random(f"{self._seed} {asked} {shown[1]}")  # noqa: S311 - a seeded answer, no secret
        return spoil(self._plan(rng, asked), self._read(shown[1], rng), self._gold, rng)

    def _read(self, shown: str, rng: random.Random) -> dict[str, Any]:
        places = list(self._places(shown))
        forms = self._forms(shown, places)
        if rng.random() < _TIDY_SHARE:
            forms = {entity: {_tidied(words): rank for words, rank in found.items()} for entity, found in forms.items()}
        names = {entity: " ".join(min(found, key=found.__getitem__).split()) for entity, found in forms.items()}
        entities = [_entity(names[entity], entity.type, list(found), rng) for entity, found in forms.items()]
        relations = [_relation(names[source], verb, names[target], rng) for source, verb, target in self._said(places)]
        return {"entities": rng.sample(entities, len(entities)), "relations": rng.sample(relations, len(relations))}

    def _places(self, shown: str) -> Iterator[Span]:
        """Every place where the document has these words: nothing in them says which one is meant."""
        sought = shown.translate(_BRACKETS)
        start = self._text.find(sought)
        while start >= 0:
            yield start, start + len(sought)
            start = self._text.find(sought, start + 1)

    def _forms(self, shown: str, places: Sequence[Span]) -> Forms:
        forms: Forms = {}
        for place in places:
            for mention in self._mentions_at(place):
                if is_inside(mention.span, place):
                    rank = mention.entity.forms.index(mention.form)
                    forms.setdefault(mention.entity, {})[_part(shown, mention.span, place)] = rank
        if self._names_fragments:
            self._add_fragments(forms, shown, places)
        return forms

    def _add_fragments(self, forms: Forms, shown: str, places: Sequence[Span]) -> None:
        taken = {words for found in forms.values() for words in found}
        for place in places:
            for mention in self._mentions_at(place):
                left = "" if is_inside(mention.span, place) else _part(shown, mention.span, place).strip()
                if any(map(str.isalnum, left)) and left not in taken:
                    forms.setdefault(mention.entity, {})[left] = _FRAGMENT

    def _mentions_at(self, place: Span) -> Sequence[Mention]:
        """Those of which any part stands in `place`. They are in text order, and no two overlap."""
        mentions = self._gold.mentions
        first = bisect_right(mentions, place[0], key=lambda mention: mention.span[1])
        return mentions[first : bisect_left(mentions, place[1], key=lambda mention: mention.span[0])]

    def _said(self, places: Sequence[Span]) -> Iterator[tuple[Entity, str, Entity]]:
        whole = [one for one in self._gold.statements if any(is_inside(one.span, place) for place in places)]
        yield from dict.fromkeys((one.source, one.verb, one.target) for one in whole)


def _part(shown: str, span: Span, place: Span) -> str:
    """What the chunk at `place` has of `span`."""
    return shown[max(0, span[0] - place[0]) : max(0, span[1] - place[0])]


def _tidied(words: str) -> str:
    return " ".join(unicodedata.normalize("NFC", words).split())


def _entity(name: str, kind: str, mentions: list[str], rng: random.Random) -> dict[str, Any]:
    return {"name": name, "type": kind, "description": f"A {kind}.", "confidence": rng.random(), "mentions": mentions}


def _relation(source: str, verb: str, target: str, rng: random.Random) -> dict[str, Any]:
    return {"source": source, "relation": verb, "target": target, "description": "", "strength": rng.randint(1, 10)}
