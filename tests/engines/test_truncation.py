import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.completion import Message
from aegis_workers.engines.truncation import was_cut

CONTEXT = 512
LONG = "word " * 600


def user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


@pytest.mark.parametrize(
    ("text", "prompt_tokens", "cut"),
    [
        (LONG, 258, True),
        (LONG, 599, True),
        ("a" * 5000, CONTEXT, True),
        (LONG, None, False),
        (LONG, 0, False),
        ("word " * 300, 400, False),
        ("short", 3, False),
        ("- " * 400, 100, False),
        ("。漢字" * 300, 300, False),
        ("a" * 5000, 80, False),
    ],
)
def test_a_cut_prompt_is_told_by_what_the_engine_says_it_read(text: str, prompt_tokens: int | None, *, cut: bool) -> None:
    assert was_cut(user(text), prompt_tokens=prompt_tokens, context_tokens=CONTEXT) is cut


def test_reasoning_that_a_template_drops_from_old_turns_is_no_cut() -> None:
    turns = (Message(role="assistant", content=LONG), Message(role="user", content="And then?"))
    assert not was_cut(turns, prompt_tokens=20, context_tokens=CONTEXT)


def test_every_turn_but_the_assistants_counts() -> None:
    turns = (Message(role="system", content="rule " * 200), Message(role="user", content="word " * 200))
    assert was_cut(turns, prompt_tokens=300, context_tokens=CONTEXT)


@given(st.text(max_size=2000), st.integers(1, CONTEXT - 1))
def test_a_prompt_with_fewer_bytes_than_the_context_has_tokens_is_never_called_cut(text: str, prompt_tokens: int) -> None:
    fitting = text.encode("utf-8", "ignore")[: CONTEXT - 1].decode("utf-8", "ignore")
    assert not was_cut(user(fitting), prompt_tokens=prompt_tokens, context_tokens=CONTEXT)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=3000))
def test_an_engine_that_read_a_token_a_word_cut_nothing(text: str) -> None:
    tokens = min(CONTEXT - 1, max(1, len(text.split())))
    whole = len(text.split()) < CONTEXT
    assert not (whole and was_cut(user(text), prompt_tokens=tokens, context_tokens=CONTEXT))
