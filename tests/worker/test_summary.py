from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.dispatch.running import Ran
from aegis_workers.outcome import Status
from aegis_workers.routing import Engine, Mode
from aegis_workers.worker import summary


def ran(engines: list[Engine], modes: list[Mode]) -> Ran:
    return Ran(engines=Counter(engines), modes=Counter(modes))


ONE = ran([Engine.VLLM], [Mode.AUTO])
BOTH = ran([Engine.VLLM, Engine.VLLM, Engine.OLLAMA], [Mode.AUTO])


@pytest.mark.parametrize(
    ("result", "where", "line"),
    [
        ({"status": "ok", "text": "private", "attempts": 1}, ONE, "ok engine=vllm mode=auto attempts=1 0.84 s"),
        (
            {"results": [{"status": "ok"}, {"status": "failed"}, {"status": "ok"}]},
            BOTH,
            "failed 1, ok 2 engine=vllm+ollama mode=auto 0.84 s",
        ),
        ({"recorded": 3, "chunks": {"ok": 3}, "set_aside": []}, ONE, "ok 3 engine=vllm mode=auto 0.84 s"),
        ({"recorded": 0, "set_aside": []}, Ran(), "0.84 s"),
    ],
)
def test_a_result_is_shown_by_how_it_ended_and_where_it_ran(result: dict[str, Any], where: Ran, line: str) -> None:
    assert summary.line(result, where, 0.8449) == line


statuses = st.sampled_from(list(Status)).map(str)
results = st.one_of(
    st.builds(lambda status, attempts: {"status": status, "attempts": attempts}, statuses, st.integers(0, 9)),
    st.builds(lambda found: {"results": [{"status": status} for status in found]}, st.lists(statuses, max_size=40)),
    st.builds(lambda found: {"chunks": found}, st.dictionaries(statuses, st.integers(1, 32))),
)
wheres = st.builds(ran, st.lists(st.sampled_from(Engine), max_size=4), st.lists(st.sampled_from(Mode), max_size=4))


@given(results, wheres, st.floats(0, 1e6))
def test_every_line_is_known_as_one(result: dict[str, Any], where: Ran, elapsed_s: float) -> None:
    assert summary.is_line(summary.line(result, where, elapsed_s))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a text",
        "'a text 0.84 s'",
        "private engine=vllm mode=auto 0.84 s",
        "ok engine=private 0.84 s",
        "ok 0.84 s\nprivate",
        None,
        1,
    ],
)
def test_nothing_else_is(text: object) -> None:
    assert not summary.is_line(text)
