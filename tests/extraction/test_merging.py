import copy
from collections.abc import Sequence
from typing import Any

import pytest
from extraction_answers import DEFAULT, chunk, entity, failed, read, relation, spans
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.extraction import merging
from aegis_workers.extraction.merging import ChunkResult
from aegis_workers.outcome import Status

ONE = "Ada Lovelace met Charles. "
TWO = "Later LOVELACE and Ada Lovelace worked for Acme."


def first(entities: Sequence[dict[str, Any]], relations: Sequence[dict[str, Any]] = (), text: str = ONE) -> ChunkResult:
    return read(chunk(text), entities, relations)


def second(entities: Sequence[dict[str, Any]], relations: Sequence[dict[str, Any]] = (), text: str = TWO) -> ChunkResult:
    return read(chunk(text, index=1, start=100), entities, relations)


def merged(*results: ChunkResult) -> dict[str, Any]:
    data = merging.merge(results, DEFAULT).data
    assert data is not None
    return dict(data)


def test_the_same_name_and_type_is_one_entity_with_all_its_mentions() -> None:
    data = merged(
        first([entity("Ada Lovelace", kind="Person", confidence=0.4, description="A mathematician.")]),
        second([entity("ADA  LOVELACE", "LOVELACE", kind="person", confidence=0.9, description="She.")]),
    )
    [found] = data["entities"]
    assert found["name"] == "Ada Lovelace"
    assert found["confidence"] == 0.9
    assert found["description"] == "A mathematician."
    assert spans(found) == [(0, 12), (106, 114)]


def test_the_same_name_of_another_type_is_another_entity() -> None:
    data = merged(first([entity("Ada Lovelace", kind="person"), entity("Ada Lovelace", kind="ship")]))
    assert [found["type"] for found in data["entities"]] == ["person", "ship"]


def test_the_name_is_the_spelling_that_the_text_has_most_often() -> None:
    results = first([entity("ACME")], text="ACME, "), second([entity("Acme")], text="Acme and Acme")
    assert [found["name"] for found in merged(*results)["entities"]] == ["Acme"]


def test_mentions_that_two_overlapping_chunks_saw_are_there_once() -> None:
    overlapping = read(chunk("Charles. Later", index=1, start=17), [entity("Charles")])
    assert [spans(found) for found in merged(first([entity("Charles")]), overlapping)["entities"]] == [[(17, 24)]]


def test_entities_stand_in_text_order_and_invented_ones_last() -> None:
    data = merged(first([entity("Zorg"), entity("Charles"), entity("Ada Lovelace")]), second([entity("Acme")]))
    assert [found["name"] for found in data["entities"]] == ["Ada Lovelace", "Charles", "Acme", "Zorg"]


def test_a_form_that_another_chunk_grounds_is_no_longer_missing() -> None:
    known = [entity("Ada Lovelace", "the Countess")]
    assert "text" in merged(first(known))["entities"][0]["mentions"][-1]
    data = merged(first(known), second(known, text="Here the Countess left."))
    assert spans(data["entities"][0]) == [(0, 12), (105, 117)]
    assert len(data["entities"][0]["mentions"]) == 2


@pytest.mark.parametrize(
    ("said", "mention", "text", "name"),
    [
        ("Acme", "ACME", "the ACME works", "ACME"),
        ("Zorg", "Acme", "Acme, I mean Acme Ltd", "Acme"),
        ("Zorg", "Zorg", "Acme", "Zorg"),
    ],
)
def test_the_name_of_an_entity_that_the_text_names_is_the_texts_own(said: str, mention: str, text: str, name: str) -> None:
    assert [found["name"] for found in merged(read(chunk(text), [entity(said, mention)]))["entities"]] == [name]


def test_what_an_answer_calls_by_no_name_of_the_text_is_what_the_text_calls_it() -> None:
    text = "Acme, I mean Acme Ltd"
    known = [entity("Acme Ltd", "Acme"), entity("Zorg", "Acme Ltd", description="A firm."), entity("Quex", "Acme", kind="pun")]
    data = merged(read(chunk(text), known, [relation("Zorg", "is", "Quex")]))
    assert [(found["name"], found["type"], found["description"]) for found in data["entities"]] == [
        ("Acme", "pun", ""),
        ("Acme Ltd", "thing", "A firm."),
    ]
    assert [(found["source"], found["target"]) for found in data["relations"]] == [("Acme Ltd", "Acme")]


def test_a_name_that_the_text_has_only_inside_a_longer_one_stays_the_name() -> None:
    known = [entity("Smith", "Ms S"), entity("Smith Industries"), entity("Ms S")]
    data = merged(read(chunk("Ms S runs Smith Industries."), known))
    assert [found["name"] for found in data["entities"]] == ["Ms S", "Smith", "Smith Industries"]


class TestNamesInShort:
    """Chunks that name an entity in full and in short, and chunks that name it in short only."""

    both = read(chunk("Ada Lovelace (Lovelace)"), [entity("Ada Lovelace", "Ada Lovelace", "Lovelace", kind="person")])
    short = read(
        chunk("Lovelace met Charles.", index=1, start=50),
        [entity("Lovelace", kind="person"), entity("Charles", kind="person")],
        [relation("Lovelace", "met", "Charles")],
    )

    def test_the_short_name_means_the_entity_that_another_answer_calls_so(self) -> None:
        data = merged(self.both, self.short)
        assert [(found["name"], spans(found)) for found in data["entities"]] == [
            ("Ada Lovelace", [(0, 12), (14, 22), (50, 58)]),
            ("Charles", [(63, 70)]),
        ]
        assert [(found["source"], found["target"]) for found in data["relations"]] == [("Ada Lovelace", "Charles")]

    def test_a_short_name_for_a_short_name_means_the_fullest(self) -> None:
        data = merged(
            read(chunk("Countess Ada Lovelace (Ada Lovelace)"), [entity("Countess Ada Lovelace", "Ada Lovelace", kind="person")]),
            read(self.both.chunk, []),
            read(chunk("Ada Lovelace (Lovelace)", index=1, start=80), [entity("Ada Lovelace", "Lovelace", kind="person")]),
            read(chunk("Lovelace", index=2, start=110), [entity("Lovelace", kind="person")]),
        )
        assert [(found["name"], len(spans(found))) for found in data["entities"]] == [("Countess Ada Lovelace", 5)]

    @pytest.mark.parametrize(
        "other",
        [
            pytest.param([entity("Lovelace", kind="crater")], id="another type"),
            pytest.param([entity("Lovelace", kind="person"), entity("Ada Lovelace", kind="person")], id="named apart"),
        ],
    )
    def test_it_stays_an_entity_of_its_own_where_an_answer_says_that_it_is(self, other: list[dict[str, Any]]) -> None:
        data = merged(self.both, read(chunk("Lovelace and Ada Lovelace", index=1, start=50), other))
        assert [found["name"] for found in data["entities"]] == ["Ada Lovelace", "Lovelace"]

    def test_it_stays_an_entity_of_its_own_where_two_are_called_so(self) -> None:
        byron = read(chunk("Ralph Lovelace (Lovelace)", index=2, start=90), [entity("Ralph Lovelace", "Lovelace", kind="person")])
        data = merged(self.both, self.short, byron)
        assert [found["name"] for found in data["entities"]] == ["Ada Lovelace", "Lovelace", "Charles", "Ralph Lovelace"]

    def test_a_form_that_stands_only_inside_longer_words_joins_nothing(self) -> None:
        data = merged(
            read(chunk("Nova Cairo and Cairo"), [entity("Nova Cairo", "Cairo")]),
            read(chunk("Cairo Novissima", index=1, start=15), [entity("Cairo Novissima")]),
            read(chunk("Cairo", index=2, start=90), [entity("Cairo")]),
        )
        names = [(found["name"], spans(found)) for found in data["entities"]]
        assert names == [("Nova Cairo", [(0, 10)]), ("Cairo Novissima", [(15, 30)]), ("Cairo", [(90, 95)])]

    def test_a_form_that_the_text_does_not_have_joins_nothing(self) -> None:
        invented = read(chunk("Zorg."), [entity("Zorg of Zorgia", "Zorg", "Lovelace", kind="person")])
        assert [found["name"] for found in merged(invented, self.short)["entities"]] == ["Zorg", "Lovelace", "Charles"]


class TestNestedWords:
    def test_words_inside_longer_words_belong_to_the_longer_ones(self) -> None:
        data = merged(first([entity("Smith"), entity("Smith Industries")], text="Smith runs Smith Industries."))
        assert [(found["name"], spans(found)) for found in data["entities"]] == [
            ("Smith", [(0, 5)]),
            ("Smith Industries", [(11, 27)]),
        ]

    def test_words_that_the_text_names_only_inside_longer_ones_stay(self) -> None:
        data = merged(first([entity("Oxford"), entity("University of Oxford")], text="The University of Oxford, in short."))
        assert [(found["name"], spans(found)) for found in data["entities"]] == [
            ("University of Oxford", [(4, 24)]),
            ("Oxford", [(18, 24)]),
        ]

    def test_a_short_form_inside_the_full_name_is_no_mention_of_its_own(self) -> None:
        data = merged(first([entity("Ada Lovelace", "Ada Lovelace", "Lovelace")]))
        assert spans(data["entities"][0]) == [(0, 12)]


class TestCutMentions:
    """Two chunks, "… works at Acme" and "Acme Corporation today", that overlap in "Acme"."""

    cut = chunk("Ada works at Acme")
    whole = chunk("Acme Corporation today", index=1, start=13)

    def test_a_fragment_at_the_cut_becomes_the_whole_one_and_takes_its_relations_along(self) -> None:
        data = merged(
            read(self.cut, [entity("Ada"), entity("Acme", kind="firm")], [relation("Ada", "works at", "Acme")]),
            read(self.whole, [entity("Acme Corporation", kind="company")]),
        )
        assert [(found["name"], spans(found)) for found in data["entities"]] == [
            ("Ada", [(0, 3)]),
            ("Acme Corporation", [(13, 29)]),
        ]
        assert [(found["source"], found["target"]) for found in data["relations"]] == [("Ada", "Acme Corporation")]
        assert "ungrounded" not in data["relations"][0]

    def test_a_fragment_at_the_beginning_of_a_chunk_becomes_the_whole_one_too(self) -> None:
        data = merged(
            read(chunk("He leads Acme Corporation"), [entity("Acme Corporation")]),
            read(chunk("Corporation today", index=1, start=14), [entity("Corporation")]),
        )
        assert [(found["name"], spans(found)) for found in data["entities"]] == [("Acme Corporation", [(9, 25)])]

    def test_a_short_name_that_stands_elsewhere_keeps_its_other_mentions(self) -> None:
        data = merged(
            read(chunk("Acme, I mean Acme"), [entity("Acme", kind="firm")]),
            read(self.whole, [entity("Acme Corporation", kind="company")]),
        )
        assert [(found["name"], spans(found)) for found in data["entities"]] == [
            ("Acme", [(0, 4)]),
            ("Acme Corporation", [(13, 29)]),
        ]

    def test_a_name_at_the_cut_that_was_whole_stays(self) -> None:
        data = merged(read(self.cut, [entity("Acme")]), read(self.whole, [entity("today")]))
        assert [(found["name"], spans(found)) for found in data["entities"]] == [("Acme", [(13, 17)]), ("today", [(30, 35)])]

    def test_the_end_of_the_text_is_no_cut(self) -> None:
        data = merged(read(self.cut, [entity("Ada")]), read(self.whole, [entity("today"), entity("Corporation today")]))
        assert [found["name"] for found in data["entities"]] == ["Ada", "Corporation today", "today"]


class TestRelations:
    def test_ends_take_the_names_of_the_entities_they_mean(self) -> None:
        data = merged(
            first([entity("Ada Lovelace")]),
            second([entity("Ada Lovelace", "LOVELACE"), entity("Acme")], [relation("lovelace", "works for", "ACME")]),
        )
        assert [(found["source"], found["target"]) for found in data["relations"]] == [("Ada Lovelace", "Acme")]

    def test_the_same_relation_is_there_once_with_the_greatest_strength(self) -> None:
        both = [entity("Ada Lovelace"), entity("Charles")]
        data = merged(
            first(both, [relation("Ada Lovelace", "met", "Charles", strength=3, description="They met.")]),
            second([], [relation("ADA LOVELACE", "Met", "Charles", strength=8)]),
        )
        assert data["relations"] == [
            {"source": "Ada Lovelace", "relation": "Met", "target": "Charles", "description": "They met.", "strength": 8}
        ]

    @pytest.mark.parametrize("end", ["Nobody", "Zorg", "the Countess"])
    def test_an_end_that_the_text_does_not_name_marks_the_relation(self, end: str) -> None:
        known = [entity("Charles"), entity("Zorg"), entity("Ada Lovelace", "the Countess")]
        [found] = merged(first(known, [relation("Charles", "met", end)]))["relations"]
        assert (found["target"], found["ungrounded"]) == (end, True)

    def test_names_that_differ_by_case_only_mean_different_entities(self) -> None:
        data = merged(
            read(
                chunk("Turkey and the turkey saw Rome."),
                [entity("Turkey", kind="place"), entity("turkey", kind="animal"), entity("Rome")],
                [relation("turkey", "saw", "Rome"), relation("Turkey", "saw", "Rome")],
            )
        )
        assert [(found["source"], found["target"]) for found in data["relations"]] == [("turkey", "Rome"), ("Turkey", "Rome")]

    def test_a_form_means_what_it_means_in_its_own_chunk(self) -> None:
        data = merged(
            read(chunk("Ann Smith left. "), [entity("Ann Smith", "Smith"), entity("Rome")]),
            read(
                chunk("Bob Smith, or Smith, saw Rome.", index=1, start=50),
                [entity("Bob Smith", "Smith"), entity("Rome")],
                [relation("Smith", "saw", "Rome")],
            ),
        )
        assert data["relations"][0]["source"] == "Bob Smith"


class TestStatus:
    ok = first([entity("Charles")])
    empty = second([])

    @pytest.mark.parametrize(
        ("results", "status"),
        [
            ([], Status.EMPTY),
            ([ok], Status.OK),
            ([first([])], Status.EMPTY),
            ([first([]), empty], Status.EMPTY),
            ([ok, empty], Status.OK),
            ([ok, failed(chunk("x", index=1))], Status.PARTIAL),
            ([first([]), failed(chunk("x", index=1))], Status.PARTIAL),
            ([failed(chunk("x"), Status.TRUNCATED)], Status.TRUNCATED),
            ([failed(chunk("x"), Status.INVALID), failed(chunk("x", index=1), Status.INVALID)], Status.INVALID),
            ([failed(chunk("x"), Status.INVALID), failed(chunk("x", index=1), Status.TRUNCATED)], Status.TRUNCATED),
            ([failed(chunk("x"), Status.TRUNCATED), failed(chunk("x", index=1))], Status.FAILED),
            ([failed(chunk("x"), Status.CANCELLED), failed(chunk("x", index=1))], Status.CANCELLED),
        ],
    )
    def test_the_outcome_follows_from_those_of_the_chunks(self, results: list[ChunkResult], status: Status) -> None:
        outcome = merging.merge(results, DEFAULT)
        assert outcome.status is status
        assert (outcome.data is not None) == (status in {Status.OK, Status.EMPTY, Status.PARTIAL})
        assert (outcome.problem is not None) == (status not in {Status.OK, Status.EMPTY})

    def test_the_problem_names_the_commonest_cause_and_how_many_chunks(self) -> None:
        causes = ["cut", "gone", "gone"]
        results = [self.ok, *(failed(chunk("x", index=index + 1), message=cause) for index, cause in enumerate(causes))]
        problem = merging.merge(results, DEFAULT).problem
        assert problem
        assert problem.message == "3 of 4 chunks gave no answer; most often: gone"

    def test_chunks_come_back_in_text_order(self) -> None:
        assert merging.merge([self.empty, self.ok], DEFAULT).chunks == (self.ok, self.empty)


NAMES = st.sampled_from(["Ada Lovelace", "ADA LOVELACE", "Charles", "Lovelace", "Acme", "acme", "Zorg", "worked"])
ENTITIES = st.builds(
    lambda name, mentions, kind, confidence, words: entity(name, *mentions, kind=kind, confidence=confidence, description=words),
    NAMES,
    st.lists(NAMES, max_size=3),
    st.sampled_from(["person", "Person", "firm"]),
    st.sampled_from([0, 0.5, 1]),
    st.sampled_from(["", "a", "bb", "cc"]),
)
RELATIONS = st.builds(
    lambda source, verb, target, strength: relation(source, verb, target, strength=strength),
    NAMES,
    st.sampled_from(["met", "MET", "worked for"]),
    NAMES,
    st.integers(1, 10),
)
RESULTS = st.lists(
    st.tuples(st.sampled_from([ONE, TWO, "Acme"]), st.none() | st.tuples(st.lists(ENTITIES), st.lists(RELATIONS))), max_size=4
)


def results_of(answers: Sequence[tuple[str, Any]]) -> list[ChunkResult]:
    where = [chunk(text, index=index, start=40 * index) for index, (text, _) in enumerate(answers)]
    return [failed(one) if said is None else read(one, *said) for one, (_, said) in zip(where, answers, strict=True)]


@given(RESULTS.flatmap(lambda answers: st.tuples(st.just(answers), st.permutations(range(len(answers))))))
def test_the_order_in_which_chunks_end_does_not_matter(drawn: tuple[list[tuple[str, Any]], list[int]]) -> None:
    answers, order = drawn
    results = results_of(answers)
    assert merging.merge([results[index] for index in order], DEFAULT) == merging.merge(results, DEFAULT)


@given(RESULTS)
def test_merging_leaves_its_input_alone_and_every_mention_is_there_once(answers: list[tuple[str, Any]]) -> None:
    results = results_of(answers)
    before = copy.deepcopy(results)
    data = merging.merge(results, DEFAULT).data
    assert results == before
    for found in data["entities"] if data else ():
        assert spans(found) == sorted(set(spans(found)))
        assert ("ungrounded" in found) == (not spans(found))
        assert found["mentions"]


@given(RESULTS)
def test_a_second_delivery_of_the_same_results_changes_no_entity_and_no_relation(answers: list[tuple[str, Any]]) -> None:
    results = results_of(answers)
    assert merging.merge([*results, *results], DEFAULT).data == merging.merge(results, DEFAULT).data
