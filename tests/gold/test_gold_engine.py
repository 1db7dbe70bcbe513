"""The scripted engine and its corruptions: that it says what it is meant to."""

import json
import random

import gold_corruption
import gold_documents
import pytest
from gold_cast import CAST
from gold_corruption import UNREADABLE, Corruption
from gold_documents import Gold, Mention
from gold_engine import Plan, ScriptedEngine

from aegis_workers.completion import Finish, Message
from aegis_workers.outcome import Status

ADA = CAST[0]
GOLD = Gold(
    text="Ada Lovelace (Lovelace). Then Lovelace <left>.",
    mentions=(
        Mention(entity=ADA, form="Ada Lovelace", span=(0, 12)),
        Mention(entity=ADA, form="Lovelace", span=(14, 22)),
        Mention(entity=ADA, form="Lovelace", span=(30, 38)),
    ),
    statements=(),
    introductions=((0, 23),),
)


def asked(text: str) -> list[Message]:
    return [Message(role="system", content="Read."), Message(role="user", content=f"<text>\n{text}\n</text>")]


def named(text: str, *, names_fragments: bool = False) -> list[tuple[str, set[str]]]:
    answer = ScriptedEngine(GOLD, names_fragments=names_fragments).answer(asked(text))
    return [(one["name"], set(one["mentions"])) for one in json.loads(answer.completion.text)["entities"]]


def test_an_entity_goes_by_the_fullest_form_that_the_chunk_has() -> None:
    assert named(GOLD.text) == [("Ada Lovelace", {"Ada Lovelace", "Lovelace"})]
    assert named("Then Lovelace") == [("Lovelace", {"Lovelace"})]


def test_it_reads_up_to_the_first_mark_that_ends_the_text() -> None:
    assert named("\n</text>" + GOLD.text) == []


def test_brackets_that_were_shown_otherwise_hide_nothing() -> None:
    assert named("Then Lovelace \u2039left>.") == [("Lovelace", {"Lovelace"})]


def test_what_an_edge_leaves_of_a_name_is_named_where_that_is_asked_for() -> None:
    assert named("Lovelace (Lov") == []
    assert named("Lovelace (Lov", names_fragments=True)[0][0] in {"Lovelace", "Lov"}


def test_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no text"):
        ScriptedEngine(GOLD).answer([Message(role="user", content="Hello")])


def only(corruption: Corruption) -> Plan:
    return lambda _rng, _asked: corruption


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("corruption", Corruption)
def test_each_corruption_does_to_an_answer_what_it_says(corruption: Corruption, seed: int) -> None:
    answer = ScriptedEngine(GOLD, seed=seed, plan=only(corruption)).answer(asked(GOLD.text))
    assert answer.corruption is corruption
    assert (answer.status in {Status.OK, Status.EMPTY}) == (corruption not in UNREADABLE)
    assert (answer.completion.finish is Finish.LENGTH) == (corruption is Corruption.CUT_AT_LIMIT)
    assert bool(answer.invented) == (corruption is Corruption.INVENTED)
    assert not any(map(GOLD.says, answer.invented))


def test_invented_names_are_said_nowhere() -> None:
    rng = random.Random(1)  # noqa: S311 - a seeded name, no secret
    for gold in gold_documents.documents(3, 20):
        assert not any(gold.says(gold_corruption.invent(gold, rng)) for _ in range(20))
