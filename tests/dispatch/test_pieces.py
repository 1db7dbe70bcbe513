"""Chunks that were read apart, and merged: what one task that read the whole text would have said."""

import asyncio
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from dispatch_place import Place
from fed_jobs import arguments, span
from hypothesis import given, settings
from hypothesis import strategies as st
from kept_answers import KeptAnswers
from recorded_chunks import RecordedChunks
from suspects_here import SuspectsHere

from aegis_workers.completion import Completion, CompletionRequest, Finish
from aegis_workers.dispatch import batches, inputs, report
from aegis_workers.dispatch.calls import Calls
from aegis_workers.dispatch.chunks import Chunks
from aegis_workers.dispatch.delivery import Delivery
from aegis_workers.dispatch.documents import Documents
from aegis_workers.dispatch.inputs import BatchItem, ExtractionPlan
from aegis_workers.engines.base import EngineClient
from aegis_workers.errors import EngineLost, RequestRefused
from aegis_workers.extraction import chunking
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings

SETTINGS = Settings(_env_file=None)
OPTIONS = {"chunk_tokens": 50, "chunk_overlap_tokens": 10}
CALLERS = {"type": "object", "properties": {"names": {"type": "array", "items": {"type": "string"}}}, "required": ["names"]}
SENTENCES = [
    "Ada Stone met Bo Hill in Rome.",
    "Bo Hill left Rome for Oslo.",
    "Ada  Stone of Oslo wrote a letter to Zoë Ångström.",
]
NAMES = ["Ada Stone", "Bo Hill", "Rome", "Oslo", "Zoë Ångström", "Nobody"]


@dataclass
class Said:
    """What the engine says to a chunk: words, or an error."""

    text: str
    finish: Finish = Finish.STOP
    refused: bool = False


def entity(name: str) -> dict[str, Any]:
    return {"name": name, "type": "person", "description": f"it is {name}", "confidence": 0.5, "mentions": [name]}


def relation(pair: Sequence[str]) -> dict[str, Any]:
    return {"source": pair[0], "relation": "met", "target": pair[1], "description": "they met", "strength": 3}


def answer(names: Sequence[str]) -> str:
    relations = [relation(pair) for pair in itertools.pairwise(names)]
    return json.dumps({"entities": [entity(name) for name in names], "relations": relations, "names": names}, ensure_ascii=False)


def default_form(text: str) -> str:
    found = json.loads(text)
    found.pop("names")
    return json.dumps(found)


texts = st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=24).map(" ".join)
said = st.one_of(
    st.lists(st.sampled_from(NAMES), max_size=4).map(lambda names: Said(answer(names))),
    st.sampled_from([Said("no JSON"), Said("{}", Finish.LENGTH), Said("", refused=True)]),
)


async def nobody(_client: EngineClient, _error: EngineLost) -> None:
    """Nobody else has to know."""


def answering(place: Place, answers: Mapping[str, Said], *, callers: bool) -> None:
    """The engine says the same to the same chunk, whoever asks."""

    async def complete(request: CompletionRequest) -> Completion:
        told = answers[request.messages[1].content.removeprefix("<text>\n").removesuffix("\n</text>")]
        if told.refused:
            raise RequestRefused("refused")
        text = told.text if callers or told.text[:1] != "{" or told.text == "{}" else default_form(told.text)
        return Completion(text=text, finish=told.finish, prompt_tokens=len(text), completion_tokens=2)

    (client,) = place.engines[Engine.VLLM]
    client.complete = complete  # type: ignore[method-assign]


@given(text=texts, said=st.lists(said, min_size=40, max_size=40), callers=st.booleans(), rng=st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_pieces_of_a_text_in_any_order_come_to_what_one_task_says_of_it(
    text: str, said: list[Said], *, callers: bool, rng: random.Random
) -> None:
    schema = CALLERS if callers else None
    plan = inputs.extraction_plan(schema, OPTIONS, SETTINGS)
    chunks = chunking.split(text, max_tokens=plan.chunk_tokens, overlap_tokens=plan.chunk_overlap_tokens)
    answers = {chunk.text: said[number] for number, chunk in enumerate(chunks)}
    item = BatchItem(custom_id="c", text=text, metadata={"page": 1})

    async def both() -> tuple[dict[str, Any], dict[str, Any]]:
        async with Place(mode=Mode.VLLM).open() as place:
            answering(place, answers, callers=callers)
            calls = Calls(place.admission, SuspectsHere(), timeout_s=60, report_lost=nobody)
            documents = Documents(calls, SETTINGS, KeptAnswers())
            (whole,) = (await documents.extract_batch([item], plan, 60, Delivery(task_id="t")))["results"]
            return whole, await _in_pieces(calls, item, chunks, plan, schema, rng)

    whole, in_pieces = asyncio.run(both())
    assert in_pieces == whole
    assert list(in_pieces) == list(whole)


async def _in_pieces(
    calls: Calls,
    item: BatchItem,
    chunks: Sequence[chunking.Chunk],
    plan: ExtractionPlan,
    schema: Mapping[str, Any] | None,
    rng: random.Random,
) -> dict[str, Any]:
    """The chunks in batches of their own, as a job has them."""
    store = RecordedChunks()
    spans = [
        span(
            chunk.index,
            chunk.text,
            index=chunk.index,
            of=len(chunks),
            start=chunk.start,
            opens_mid_word=chunk.opens_mid_word,
            closes_mid_word=chunk.closes_mid_word,
            custom_id=item.custom_id,
            metadata=item.metadata,
        )
        for chunk in chunks
    ]
    rng.shuffle(spans)
    for first in range(0, len(spans), 3):
        batch = batches.read(arguments("job_1", spans[first : first + 3], schema=schema, options=OPTIONS), SETTINGS)
        await Chunks(calls, store, KeptAnswers()).read(batch, Delivery(task_id=f"job_1.{first}"))
    if len(chunks) == 1:
        return store.lines[0]
    assert isinstance(item.text, str)
    return report.line_of(item, [outcome.body for outcome in store.outcomes], item.text, plan)


def test_pieces_that_are_not_all_are_no_line() -> None:
    plan = inputs.extraction_plan(None, OPTIONS, SETTINGS)
    item = BatchItem(custom_id="c", text="")
    with pytest.raises(ValueError, match="pieces of 0 chunks are no document of 1"):
        report.line_of(item, [], "A text.", plan)
