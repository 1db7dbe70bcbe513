import io
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from aegis_workers.local import report

Line = dict[str, Any]


def line(**changed: Any) -> Line:
    return {
        "custom_id": "report.txt",
        "status": "ok",
        "engine": "vllm",
        "mode": "auto",
        "error": None,
        "usage": {"prompt_tokens": 100, "completion_tokens": 40},
        "data": {
            "entities": [
                {"name": "Halberg Marine", "type": "organisation", "confidence": 0.9, "mentions": [{"start": 0, "end": 14}] * 3},
                {"name": "Kestrin", "type": "place", "confidence": 0.5, "mentions": [{"text": "x", "ungrounded": True}]},
            ],
            "relations": [{"source": "Halberg Marine", "relation": "works_in", "target": "Kestrin", "strength": 4}],
        },
        **changed,
    }


def drawn(result: Mapping[str, Any], width: int = 80) -> str:
    output = io.StringIO()
    Console(file=output, width=width).print(report.document(result))
    return output.getvalue()


def test_a_document_shows_its_entities_and_relations_and_how_it_was_read() -> None:
    shown = drawn(line())
    heading, *table = shown.splitlines()
    assert heading == "report.txt  ok · engine vllm · mode auto"
    rows = [" ".join(row.split()) for row in table]
    assert "Halberg Marine organisation 3 0.90" in rows
    assert "Halberg Marine works_in → Kestrin" in rows


def test_a_simulated_engine_is_never_shown_as_a_real_one() -> None:
    assert "engine vllm (simulator)" in drawn(line(simulated=True))


def test_an_entity_that_was_not_found_in_the_text_says_so() -> None:
    assert "Kestrin place ungrounded 0.50" in " ".join(drawn(line()).split())


def test_the_entities_mentioned_most_come_first_and_the_rest_is_counted() -> None:
    entities = [{"name": f"E{n}", "type": "t", "confidence": 1, "mentions": [{"start": 0, "end": 1}] * n} for n in range(1, 21)]
    shown = drawn(line(data={"entities": entities, "relations": []}))
    assert shown.index("E20") < shown.index("E19")
    assert "E8 " not in shown
    assert "… and 8 more entities in the JSON result" in shown


def test_a_document_that_failed_shows_why() -> None:
    failed = line(status="failed", data=None, engine=None, error={"class": "item-fatal", "message": "the prompt is too long"})
    shown = drawn(failed)
    assert "failed · engine none" in shown
    assert "item-fatal: the prompt is too long" in shown


def test_a_document_cannot_steer_the_terminal() -> None:
    shown = drawn(line(custom_id="a\x1b[2Jb", error={"class": "x", "message": "\x1b]0;title\x07"}))
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_square_brackets_are_text() -> None:
    entity = {"name": "[red]Act [1]", "type": "[/]", "confidence": 1, "mentions": []}
    assert "[red]Act [1]" in drawn(line(data={"entities": [entity], "relations": []}))


@pytest.mark.parametrize(
    ("status", "complete"), [("ok", True), ("empty", True), ("partial", False), ("failed", False), ("invalid", False)]
)
def test_only_ok_and_empty_are_complete(status: str, *, complete: bool) -> None:
    assert report.is_complete({"status": status}) is complete


def test_the_summary_counts_documents_statuses_and_tokens() -> None:
    lines = [line(), line(), line(status="failed", usage=None)]
    assert report.summary(lines, 2.04) == "3 documents in 2.0 s: 2 ok, 1 failed; 280 tokens."


WORDS = st.text(min_size=1, max_size=120)


@given(name=WORDS, kind=WORDS, relation=WORDS, custom_id=WORDS)
def test_no_line_is_wider_than_the_terminal(name: str, kind: str, relation: str, custom_id: str) -> None:
    data = {
        "entities": [{"name": name, "type": kind, "confidence": 0.5, "mentions": []}],
        "relations": [{"source": name, "relation": relation, "target": kind, "strength": 1}],
    }
    for row in drawn(line(custom_id=custom_id, data=data)).splitlines():
        assert cell_len(row) <= 80
