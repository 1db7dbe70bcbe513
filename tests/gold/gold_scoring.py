"""How far a result is from the gold: what was found, what was not, and what was said beyond it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gold_corruption import INVENTED_VERB, UNSAID_TYPE, UNSAID_VERB
from gold_documents import Gold, Span, is_inside


@dataclass(frozen=True, kw_only=True)
class Match:
    """Of `known` values of the gold and `said` values of a result, `right` are the same."""

    right: int = 0
    known: int = 0
    said: int = 0

    def __add__(self, other: "Match") -> "Match":
        return Match(right=self.right + other.right, known=self.known + other.known, said=self.said + other.said)

    @property
    def precision(self) -> float:
        """The share of what was said that is right; 1 where nothing was said."""
        return self.right / self.said if self.said else 1.0

    @property
    def recall(self) -> float:
        """The share of the gold that was said; 1 where there was nothing to say."""
        return self.right / self.known if self.known else 1.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.right / (self.known + self.said) if self.known + self.said else 1.0


@dataclass(frozen=True, kw_only=True)
class Score:
    """One result, or the sum of several, against the gold that stands whole in a chunk which was answered.

    `entities`: mentions by type and span. `names`: entities by name and type, each said once. `relations`: by the entities at
    their ends and the verb. `grounded` of `values`: mentions and relations that carry no mark. `let_through`: values that the
    document nowhere says and that carry no mark. `unsaid`: invented verbs between entities of the document, and invented types of
    them, which no mark speaks of. `twice`: entities that are there again under the same name and type. `cut_away`:
    mentions and relations that stand whole in no such chunk.
    """

    entities: Match = field(default_factory=Match)
    names: Match = field(default_factory=Match)
    relations: Match = field(default_factory=Match)
    grounded: int = 0
    values: int = 0
    let_through: int = 0
    unsaid: int = 0
    twice: int = 0
    cut_away: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def grounding_rate(self) -> float:
        """The share of all values in the result that carry no mark."""
        return self.grounded / self.values if self.values else 1.0


def score(data: Mapping[str, Any] | None, gold: Gold, seen: Sequence[Span]) -> Score:
    """`data`, a document's merged result, against `gold`; `seen` are the spans of the chunks that were answered."""
    entities: Sequence[Mapping[str, Any]] = data["entities"] if data else ()
    relations: Sequence[Mapping[str, Any]] = data["relations"] if data else ()
    mentions = [mention for mention in gold.mentions if _is_seen(mention.span, seen)]
    stated = {(one.source, one.verb, one.target) for one in gold.statements}
    whole = {(one.source, one.verb, one.target) for one in gold.statements if _is_seen(one.span, seen)}
    names = gold.names()
    marks = ["start" not in mention for one in entities for mention in one["mentions"]] + [_is_marked(one) for one in relations]
    return Score(
        entities=_match({(one.entity.type, *one.span) for one in mentions}, _spans(entities)),
        names=_match({one.entity for one in mentions}, (_named(one, names) for one in entities)),
        relations=_match(whole, (_related(one, names) for one in relations)),
        grounded=marks.count(False),
        values=len(marks),
        twice=len(entities) - len({(one["name"], one["type"]) for one in entities}),
        unsaid=sum(one["type"] == UNSAID_TYPE for one in entities) + sum(one["relation"] == UNSAID_VERB for one in relations),
        let_through=sum(1 for _ in _let_through(entities, relations, gold)),
        cut_away=len(gold.mentions) - len(mentions) + len(stated - whole),
    )


def count_unmarked(data: Mapping[str, Any] | None, invented: Iterable[str]) -> int:
    """How many of the `invented` forms of one chunk's answer are not marked in what was read from it."""
    marked = {
        mention.get("text") for one in (data or {}).get("entities", ()) for mention in one["mentions"] if _is_marked(mention)
    }
    return sum(" ".join(form.split()) not in marked for form in invented)


def _match(known: set[Any], said: Iterable[Any]) -> Match:
    """Whatever is said twice is right once."""
    values = list(said)
    return Match(right=len(known.intersection(values)), known=len(known), said=len(values))


def _is_seen(span: Span, seen: Sequence[Span]) -> bool:
    return any(is_inside(span, place) for place in seen)


def _is_marked(value: Mapping[str, Any]) -> bool:
    return value.get("ungrounded") is True


def _spans(entities: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, int, int]]:
    for one in entities:
        yield from ((one["type"], mention["start"], mention["end"]) for mention in one["mentions"] if "start" in mention)


def _named(one: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
    entity = names.get(one["name"])
    return entity if entity is not None and entity.type == one["type"] else None


def _related(one: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
    return names.get(one["source"]), one["relation"], names.get(one["target"])


def _let_through(entities: Iterable[Mapping[str, Any]], relations: Iterable[Mapping[str, Any]], gold: Gold) -> Iterator[str]:
    """Every value without a mark that the document does not say."""
    for one in entities:
        if not _is_marked(one) and not gold.says(one["name"]):
            yield one["name"]
        for mention in one["mentions"]:
            if not _is_marked(mention) and not 0 <= mention["start"] < mention["end"] <= len(gold.text):
                yield one["name"]
    for one in relations:
        ends_are_said = gold.says(one["source"]) and gold.says(one["target"])
        if not _is_marked(one) and (one["relation"] == INVENTED_VERB or not ends_are_said):
            yield one["relation"]
