import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers.completion import Message, Sampling
from aegis_workers.dispatch import inputs
from aegis_workers.dispatch.inputs import MAX_BATCH_ITEMS, VERSION
from aegis_workers.errors import InvalidInput
from aegis_workers.settings import Settings

SETTINGS = Settings(_env_file=None)
PLANTED = "zanzibar"
SURROGATE = f"{PLANTED} \ud800"
HELLO = [{"role": "user", "content": "hello"}]


def refusal(check: Any, *arguments: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        check(*arguments)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert PLANTED not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("version", [0, VERSION + 1, -1, "1", None, 1.0, True, PLANTED, [PLANTED], {"v": PLANTED}])
def test_a_form_of_message_that_is_not_known_is_refused_with_what_is(version: Any) -> None:
    assert f"versions 1 to {VERSION}" in refusal(inputs.check_version, version)


def test_every_version_so_far_is_read() -> None:
    for version in range(1, VERSION + 1):
        inputs.check_version(version)


class TestConversation:
    def test_messages_become_turns_with_the_defaults_of_the_settings(self) -> None:
        conversation = inputs.conversation([{"role": "system", "content": "be brief"}, *HELLO], None, SETTINGS)
        assert conversation.messages == (Message(role="system", content="be brief"), Message(role="user", content="hello"))
        assert conversation.sampling == Sampling(max_tokens=SETTINGS.answer_tokens)
        assert conversation.deadline_s == SETTINGS.chat_deadline_s

    def test_a_tuple_is_as_good_as_a_list(self) -> None:
        assert inputs.conversation(tuple(HELLO), {}, SETTINGS) == inputs.conversation(HELLO, None, SETTINGS)

    def test_options_are_taken_over(self) -> None:
        options = {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": -3, "deadline_s": 7}
        conversation = inputs.conversation(HELLO, options, SETTINGS)
        assert conversation.sampling == Sampling(max_tokens=5, temperature=0.5, top_p=0.9, seed=-3)
        assert conversation.deadline_s == 7

    def test_all_its_texts_together_are_no_larger_than_a_text_may_be(self) -> None:
        small = Settings(_env_file=None, max_text_bytes=1000)
        fits = [{"role": "system", "content": "é" * 300}, {"role": "user", "content": "x" * 400}]
        assert len(inputs.conversation(fits, None, small).messages) == 2
        said = refusal(inputs.conversation, [*fits, {"role": "assistant", "content": "y"}], None, small)
        assert "1,001 bytes, more than the 1,000 of AEGIS_MAX_TEXT_BYTES" in said
        assert "AEGIS_MAX_TEXT_BYTES" in refusal(inputs.generation, PLANTED * 200, None, small)

    @pytest.mark.parametrize("messages", [None, [], (), PLANTED, {"role": PLANTED}, 7, {PLANTED}])
    def test_what_is_no_list_of_messages_is_refused_with_the_form(self, messages: Any) -> None:
        message = refusal(inputs.conversation, messages, None, SETTINGS)
        assert message == 'messages must be a list with at least one {"role": "user", "content": …}'

    @pytest.mark.parametrize(
        ("message", "place", "words"),
        [
            (PLANTED, "messages[1]", "must be an object, not str"),
            (None, "messages[1]", "must be an object, not NoneType"),
            ({"role": "user"}, "messages[1].content", "required"),
            ({"content": PLANTED}, "messages[1].role", "required"),
            ({"role": PLANTED, "content": "x"}, "messages[1].role", "'system', 'user' or 'assistant'"),
            ({"role": "user", "content": ""}, "messages[1].content", "at least 1 character"),
            ({"role": "user", "content": [{"text": PLANTED}]}, "messages[1].content", "valid string"),
            ({"role": "user", "content": PLANTED.encode() + b"\xff"}, "messages[1].content", "lone surrogate"),
            ({"role": "user", "content": SURROGATE}, "messages[1].content", "lone surrogate: decode the bytes as UTF-8"),
            ({"role": "user", "content": "x", "name": PLANTED}, "messages[1].name", "not known; allowed: role, content"),
        ],
    )
    def test_a_bad_message_is_refused_with_its_place(self, message: Any, place: str, words: str) -> None:
        said = refusal(inputs.conversation, [*HELLO, message], None, SETTINGS)
        assert said.startswith(f"{place}")
        assert words in said

    @pytest.mark.parametrize(
        ("prompt", "words"),
        [("", "at least 1 character"), (None, "valid string"), ([PLANTED], "valid string"), (SURROGATE, "lone surrogate")],
    )
    def test_a_bad_prompt_is_refused_with_its_place(self, prompt: Any, words: str) -> None:
        said = refusal(inputs.generation, prompt, None, SETTINGS)
        assert said.startswith("prompt: ")
        assert words in said

    def test_a_prompt_is_a_conversation_of_one_turn(self) -> None:
        assert inputs.generation("hello", None, SETTINGS) == inputs.conversation(HELLO, None, SETTINGS)


OPTIONS = [
    ("temprature", 1, "not known; allowed: max_tokens, temperature, top_p, seed, deadline_s"),
    ("stream", True, "not known"),
    ("max_tokens", 0, "greater than or equal to 1"),
    ("max_tokens", 10**9, "less than or equal to"),
    ("max_tokens", PLANTED, "valid integer"),
    ("max_tokens", 1.5, "valid integer"),
    ("temperature", -0.1, "greater than or equal to 0"),
    ("temperature", 2.1, "less than or equal to 2"),
    ("temperature", float("nan"), "finite number"),
    ("temperature", {PLANTED: 1}, "valid number"),
    ("top_p", 0, "greater than 0"),
    ("top_p", 1.1, "less than or equal to 1"),
    ("seed", PLANTED, "valid integer"),
    ("seed", 2**63, "less than or equal to"),
    ("seed", -(2**63) - 1, "greater than or equal to"),
    ("deadline_s", 0, "greater than 0"),
    ("deadline_s", float("inf"), "finite number"),
    ("deadline_s", 604_801, "less than or equal to 604800"),
]


@pytest.mark.parametrize(("name", "value", "words"), OPTIONS)
@pytest.mark.parametrize("task", ["chat", "extraction"])
def test_a_bad_option_is_refused_with_its_name_and_what_is_allowed(task: str, name: str, value: Any, words: str) -> None:
    if task == "chat":
        said = refusal(inputs.conversation, HELLO, {name: value}, SETTINGS)
    else:
        said = refusal(inputs.extraction_plan, None, {name: value}, SETTINGS)
    assert said.startswith(f"options.{name}")
    assert words in said


@pytest.mark.parametrize("options", [PLANTED, [PLANTED], 7, True])
def test_options_that_are_no_object_are_refused(options: Any) -> None:
    for check in (inputs.conversation, inputs.extraction_plan):
        said = refusal(check, HELLO if check is inputs.conversation else None, options, SETTINGS)
        assert said == f"options must be an object, not {type(options).__name__}"


def test_several_bad_options_are_all_named() -> None:
    said = refusal(inputs.conversation, HELLO, {"temperature": 9, "seed": PLANTED}, SETTINGS)
    assert "options.temperature" in said
    assert "options.seed" in said


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(json_values, json_values)
def test_whatever_is_sent_is_a_conversation_or_invalid_input(messages: Any, options: Any) -> None:
    for check in (inputs.conversation, inputs.generation):
        try:
            conversation = check(messages, options, SETTINGS)
        except InvalidInput as error:
            assert str(error)  # noqa: PT017 - either way is right
        else:
            assert conversation.messages
            "".join(message.content for message in conversation.messages).encode()


@given(json_values, json_values)
def test_whatever_is_sent_is_a_plan_and_a_batch_or_invalid_input(items: Any, options: Any) -> None:
    for check, arguments in ((inputs.batch, (items,)), (inputs.extraction_plan, (None, options, SETTINGS))):
        try:
            check(*arguments)
        except InvalidInput as error:
            assert str(error)  # noqa: PT017 - either way is right


class TestDeadline:
    def test_the_time_in_the_queue_counts(self) -> None:
        left = inputs.conversation(HELLO, {"deadline_s": 10}, SETTINGS, enqueued_at=time.time() - 4).deadline_s
        assert left == pytest.approx(6, abs=0.5)

    def test_a_clock_that_is_ahead_gives_no_more_time(self) -> None:
        assert inputs.remaining_s(10, time.time() + 1000) == 10

    @pytest.mark.parametrize("enqueued_at", [float("nan"), float("inf"), None])
    def test_a_time_that_means_nothing_counts_as_now(self, enqueued_at: float | None) -> None:
        assert inputs.remaining_s(10, enqueued_at) == 10

    def test_a_caller_may_ask_for_more_time_than_the_settings_give(self) -> None:
        longer = 10 * max(SETTINGS.chat_deadline_s, SETTINGS.extraction_deadline_s)
        assert inputs.conversation(HELLO, {"deadline_s": longer}, SETTINGS).deadline_s == longer


class TestExtractionPlan:
    def test_without_options_the_settings_say_how(self) -> None:
        plan = inputs.extraction_plan(None, None, SETTINGS)
        assert (plan.chunk_tokens, plan.chunk_overlap_tokens) == (SETTINGS.chunk_tokens, SETTINGS.chunk_overlap_tokens)
        assert plan.sampling == Sampling(max_tokens=SETTINGS.answer_tokens, temperature=0.0)
        assert plan.deadline_s == SETTINGS.extraction_deadline_s
        assert plan.instructions is None

    def test_a_smaller_chunk_has_a_smaller_overlap_unless_it_was_asked_for(self) -> None:
        assert inputs.extraction_plan(None, {"chunk_tokens": 60}, SETTINGS).chunk_overlap_tokens == 30
        said = refusal(inputs.extraction_plan, None, {"chunk_tokens": 60, "chunk_overlap_tokens": 31}, SETTINGS)
        assert said == "options.chunk_overlap_tokens=31 is more than half of chunk_tokens=60"

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"instructions": SURROGATE}, "options.instructions: holds a lone surrogate"),
            ({"instructions": PLANTED * 5000}, "options.instructions: String should have at most"),
            ({"chunk_tokens": 10}, "options.chunk_tokens: Input should be greater than or equal to 50"),
            ({"chunk_overlap_tokens": -1}, "options.chunk_overlap_tokens: Input should be greater than or equal to 0"),
        ],
    )
    def test_bad_options_of_an_extraction_are_refused(self, options: Any, words: str) -> None:
        assert refusal(inputs.extraction_plan, None, options, SETTINGS).startswith(words)

    @pytest.mark.parametrize("schema", [PLANTED, [PLANTED], 7, {"type": PLANTED}, {"description": SURROGATE}])
    def test_a_schema_that_is_none_is_refused(self, schema: Any) -> None:
        assert "schema" in refusal(inputs.extraction_plan, schema, None, SETTINGS)


class TestBatch:
    def test_items_are_kept_in_order_with_their_metadata(self) -> None:
        items = inputs.batch([{"custom_id": "b", "text": "x"}, {"custom_id": "a", "text": 7, "metadata": {"k": [1]}}])
        assert [(item.custom_id, item.text, item.metadata) for item in items] == [("b", "x", None), ("a", 7, {"k": [1]})]

    @pytest.mark.parametrize("items", [None, [], PLANTED, {"custom_id": PLANTED}, 7])
    def test_what_is_no_list_of_items_is_refused_with_the_form(self, items: Any) -> None:
        assert refusal(inputs.batch, items) == 'items must be a list of {"custom_id", "text"} with at least one item'

    def test_more_items_than_one_message_may_hold_are_refused_with_the_limit(self) -> None:
        items = [{"custom_id": str(number), "text": PLANTED} for number in range(MAX_BATCH_ITEMS + 1)]
        assert f"send up to {MAX_BATCH_ITEMS}" in refusal(inputs.batch, items)
        assert len(inputs.batch(items[:-1])) == MAX_BATCH_ITEMS

    def test_two_items_with_one_id_are_refused(self) -> None:
        items = [{"custom_id": PLANTED, "text": "x"}] * 2
        assert refusal(inputs.batch, items) == "items: custom_id must be unique within a batch"

    @pytest.mark.parametrize(
        ("item", "words"),
        [
            (PLANTED, "items[0] must be an object, not str"),
            ({"text": PLANTED}, "items[0].custom_id: Field required"),
            ({"custom_id": "", "text": PLANTED}, "items[0].custom_id: String should have at least 1 character"),
            ({"custom_id": 7, "text": PLANTED}, "items[0].custom_id: Input should be a valid string"),
            ({"custom_id": SURROGATE, "text": "x"}, "items[0].custom_id: holds a lone surrogate"),
            ({"custom_id": "a"}, "items[0].text: Field required"),
            ({"custom_id": "a", "text": "x", "metadata": PLANTED}, "items[0].metadata: Input should be a valid dictionary"),
            ({"custom_id": "a", "text": "x", "body": PLANTED}, "items[0].body: not known; allowed: custom_id, text, metadata"),
        ],
    )
    def test_a_bad_item_is_refused_with_its_place(self, item: Any, words: str) -> None:
        assert refusal(inputs.batch, [item]).startswith(words)
