"""The scorer: that it sees every way in which a result can be wrong."""

import copy
from collections.abc import Callable
from typing import Any

import gold_documents
import gold_scoring
import pytest
from gold_corruption import INVENTED_VERB, UNSAID_TYPE, UNSAID_VERB
from gold_documents import Gold
from gold_scoring import Match, Score

GOLD = next(gold for gold in gold_documents.documents(1, 100) if len(gold.statements) > 5)
ALL = [(0, len(GOLD.text))]
Change = Callable[[dict[str, Any]], None]


def right(gold: Gold) -> dict[str, Any]:
    """The result that the gold says."""
    names = {entity: name for name, entity in gold.names().items()}
    entities = [
        {
            "name": name,
            "type": entity.type,
            "mentions": [{"start": m.span[0], "end": m.span[1]} for m in gold.mentions if m.entity == entity],
        }
        for entity, name in names.items()
    ]
    said = dict.fromkeys((one.source, one.verb, one.target) for one in gold.statements)
    relations = [{"source": names[source], "relation": verb, "target": names[target]} for source, verb, target in said]
    return {"entities": entities, "relations": relations}


def scored(change: Change) -> Score:
    data = copy.deepcopy(right(GOLD))
    change(data)
    return gold_scoring.score(data, GOLD, ALL)


def test_the_gold_itself_is_all_right() -> None:
    score = scored(lambda _: None)
    for match in (score.entities, score.names, score.relations):
        assert (match.precision, match.recall, match.f1) == (1, 1, 1)
        assert match.known > 0
    assert (score.grounding_rate, score.let_through, score.cut_away) == (1, 0, 0)


def test_what_no_answered_chunk_shows_is_not_asked_for() -> None:
    score = gold_scoring.score(None, GOLD, [])
    assert (score.entities.known, score.names.known, score.relations.known) == (0, 0, 0)
    assert score.cut_away == len(GOLD.mentions) + len({(s.source, s.verb, s.target) for s in GOLD.statements})


def first(data: dict[str, Any], **fields: Any) -> None:
    data["entities"][0] |= fields


def related(data: dict[str, Any], **fields: Any) -> None:
    data["relations"][0] |= fields


LESS_RECALL: dict[str, Change] = {
    "entities mention gone": lambda data: data["entities"][0]["mentions"].pop(),
    "entities span moved": lambda data: data["entities"][0]["mentions"][0].update(
        end=data["entities"][0]["mentions"][0]["end"] + 1
    ),
    "entities other type": lambda data: first(data, type="ship"),
    "names other name": lambda data: first(data, name="Zorg"),
    "names other type": lambda data: first(data, type="ship"),
    "names gone": lambda data: data["entities"].pop(),
    "relations gone": lambda data: data["relations"].pop(),
    "relations other verb": lambda data: related(data, relation="saw"),
    "relations the wrong way": lambda data: related(
        data, source=data["relations"][0]["target"], target=data["relations"][0]["source"]
    ),
}
LESS_PRECISION: dict[str, Change] = {
    "entities more": lambda data: data["entities"][0]["mentions"].append({"start": 0, "end": 1}),
    "entities twice": lambda data: data["entities"][0]["mentions"].append(data["entities"][0]["mentions"][0]),
    "names twice": lambda data: data["entities"].append(data["entities"][0]),
    "names more": lambda data: data["entities"].append({"name": "Zorg", "type": "person", "mentions": []}),
    "relations twice": lambda data: data["relations"].append(data["relations"][0]),
    "relations more": lambda data: data["relations"].append(data["relations"][0] | {"relation": "saw"}),
}


@pytest.mark.parametrize("change", LESS_RECALL)
def test_what_is_missing_lowers_recall(change: str) -> None:
    match: Match = getattr(scored(LESS_RECALL[change]), change.split(maxsplit=1)[0])
    assert match.recall < 1
    assert match.f1 < 1


@pytest.mark.parametrize("change", LESS_PRECISION)
def test_what_is_too_much_lowers_precision(change: str) -> None:
    match: Match = getattr(scored(LESS_PRECISION[change]), change.split(maxsplit=1)[0])
    assert (match.precision < 1, match.recall) == (True, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["entities"][0]["mentions"].append({"text": "Zorg", "ungrounded": True}),
        lambda data: related(data, ungrounded=True),
    ],
    ids=["a mention", "a relation"],
)
def test_a_mark_lowers_the_grounding_rate(change: Change) -> None:
    assert scored(change).grounding_rate < 1


INVENTIONS: dict[str, Change] = {
    "a name": lambda data: first(data, name="Zorg"),
    "a place": lambda data: data["entities"][0]["mentions"].append({"start": 0, "end": len(GOLD.text) + 1}),
    "an end": lambda data: related(data, target="Zorg"),
    "a verb": lambda data: related(data, relation=INVENTED_VERB),
}


@pytest.mark.parametrize("change", INVENTIONS)
def test_an_invented_value_without_a_mark_is_let_through(change: str) -> None:
    assert scored(INVENTIONS[change]).let_through == 1


@pytest.mark.parametrize(
    "change", [lambda data: related(data, relation=UNSAID_VERB), lambda data: first(data, type=UNSAID_TYPE)], ids=["verb", "type"]
)
def test_an_invented_verb_or_type_of_what_the_document_names_is_counted_apart(change: Change) -> None:
    score = scored(change)
    assert (score.unsaid, score.let_through) == (1, 0)


def test_an_entity_that_is_there_again_is_counted() -> None:
    assert scored(LESS_PRECISION["names twice"]).twice == 1


@pytest.mark.parametrize("part", ["entities", "relations"])
def test_an_invented_value_with_a_mark_is_not(part: str) -> None:
    def change(data: dict[str, Any]) -> None:
        data[part][0] |= {"name": "Zorg", "target": "Zorg", "ungrounded": True}

    assert scored(change).let_through == 0


def test_an_invented_form_that_lost_its_mark_is_counted() -> None:
    data = {"entities": [{"mentions": [{"text": "Zorg", "ungrounded": True}, {"start": 0, "end": 1}]}]}
    assert gold_scoring.count_unmarked(data, ["Zorg", "Quex"]) == 1
    assert gold_scoring.count_unmarked(None, ["Zorg"]) == 1


def test_scores_add_up() -> None:
    one = Score(entities=Match(right=1, known=2, said=4), values=3, grounded=2)
    both = one + one
    assert (both.entities, both.values, both.grounded) == (Match(right=2, known=4, said=8), 6, 4)
    assert (both.entities.precision, both.entities.recall) == (0.25, 0.5)
    assert both.entities.f1 == pytest.approx(1 / 3)
