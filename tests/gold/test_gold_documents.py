"""The gold itself: that it is right, and as hard as it says."""

import re
from collections.abc import Callable

import gold_documents
import pytest
from gold_cast import CAST, Entity
from gold_documents import Gold, is_inside

GOLDS = list(gold_documents.documents(11, 60))
TEXT = "\n".join(gold.text for gold in GOLDS)


def test_the_same_seed_gives_the_same_documents_and_another_one_others() -> None:
    assert list(gold_documents.documents(11, 60)) == GOLDS
    assert list(gold_documents.documents(12, 60)) != GOLDS


@pytest.mark.parametrize("entity", CAST, ids=lambda entity: entity.forms[0])
def test_an_entity_is_named_wherever_its_forms_stand_and_nowhere_else(entity: Entity) -> None:
    named = 0
    for gold in GOLDS:
        for mention in gold.mentions:
            spelled = " ".join(gold.words(mention.span).split())
            assert spelled in {mention.form, mention.form.upper()}
        spans = [mention.span for mention in gold.mentions]
        for form in entity.forms:
            for found in re.finditer(rf"(?<![a-zA-Z]){re.escape(form)}(?![a-zA-Z])", gold.text):
                assert any(is_inside(found.span(), span) for span in spans), (
                    form,
                    gold.text[found.start() - 20 : found.end() + 20],
                )
                named += found.span() in spans
    assert named


def test_statements_begin_and_end_with_what_they_say_and_hold_both_names() -> None:
    for gold in GOLDS:
        for statement in gold.statements:
            inside = {mention.entity for mention in gold.mentions if is_inside(mention.span, statement.span)}
            assert inside == {statement.source, statement.target}
            assert gold.words(statement.span) == gold.words(statement.span).strip()


def test_a_form_that_is_not_the_name_is_introduced_first() -> None:
    for gold in GOLDS:
        introduced = {entity.forms[0] for entity in CAST}
        for mention in gold.mentions:
            if mention.form not in introduced:
                assert any(is_inside(mention.span, span) for span in gold.introductions)
                introduced.add(mention.form)


HARD: dict[str, Callable[[Gold], bool]] = {
    "a relation said twice": lambda gold: len(gold.statements) > len({(s.source, s.verb, s.target) for s in gold.statements}),
    "a name broken over lines": lambda gold: any("\n" in gold.words(mention.span) for mention in gold.mentions),
    "a name inside another": lambda gold: {"Smith", "Smith Industries"} <= {mention.form for mention in gold.mentions},
    "names that differ by case": lambda gold: {"Turkey", "turkey"} <= {mention.form for mention in gold.mentions},
    "a document that names nobody": lambda gold: not gold.mentions,
    "no document": lambda gold: not gold.text.strip(),
}


@pytest.mark.parametrize("hard", HARD)
def test_every_hard_case_is_there(hard: str) -> None:
    assert any(map(HARD[hard], gold_documents.documents(1, 300)))


@pytest.mark.parametrize(
    "words", ["never worked", "没有", "北京", "ירושל|דוד", "القاهرة", "e\u0301", r"\| owns", "</text>", "Ignore all"]
)
def test_every_kind_of_text_is_there(words: str) -> None:
    assert re.search(words, TEXT)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("Ada Lovelace", True),
        ("ada\n LOVELACE", True),
        ("Ada Lovelac", False),
        ("da Lovelace", False),
        ("AdaLovelace", False),
        ("Caf\u00e9 Zo\u00eb", True),
        ("Cafe Zoe", False),
        ("京大", True),
        ("大京", False),
    ],
)
def test_what_the_document_says_is_told_from_what_it_does_not(words: str, said: bool) -> None:  # noqa: FBT001 - a case
    gold = Gold(text="Ada\nLovelace, Cafe\u0301 Zoe\u0308 和北京大学", mentions=(), statements=(), introductions=())
    assert gold.says(words) is said
