"""What a job is made of: items, and the chunks of their texts."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aegis_workers.extraction import chunking
from aegis_workers.extraction.chunking import Chunk


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One input of a job: `text` to extract from, or the `body` of a chat completion, never both.

    `number` counts from 0 in the order of the input. `first_chunk` and the `chunks` from there are numbers within the job.
    """

    number: int
    custom_id: str
    first_chunk: int
    chunks: int
    text: str | None = None
    body: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemChunk:
    """What one call is for: a span of the item's text, or its whole request, which has no `span`."""

    number: int
    item: Item
    span: Chunk | None = None

    def to_message(self) -> dict[str, Any]:
        """The form in which it travels to a worker."""
        common = {"n": self.number, "item": self.item.number, "of": self.item.chunks}
        if self.span is None:
            return {**common, "custom_id": self.item.custom_id, "body": self.item.body}
        metadata = {} if self.item.metadata is None else {"metadata": self.item.metadata}
        return {
            **common,
            "index": self.span.index,
            "start": self.span.start,
            "end": self.span.end,
            "text": self.span.text,
            "opens_mid_word": self.span.opens_mid_word,
            "closes_mid_word": self.span.closes_mid_word,
            "custom_id": self.item.custom_id,
            **metadata,
        }


def parse(line: bytes, number: int, chunks: range) -> Item:
    """The item whose line of the job's folder this is. Raises `ValueError`, `TypeError` or `KeyError` where it is none."""
    fields = json.loads(line)
    return Item(
        number=number,
        custom_id=fields["custom_id"],
        first_chunk=chunks.start,
        chunks=len(chunks),
        text=fields.get("text"),
        body=fields.get("body"),
        metadata=fields.get("metadata"),
    )


def cut(item: Item, *, max_tokens: int, overlap_tokens: int) -> Iterator[ItemChunk]:
    """The item's chunks in their order. Raises `ValueError` where they are not as many as the item says."""
    if item.text is None:
        yield ItemChunk(number=item.first_chunk, item=item)
        return
    spans = chunking.split(item.text, max_tokens=max_tokens, overlap_tokens=overlap_tokens)
    if len(spans) != item.chunks:
        raise ValueError(f"item {item.number} was cut into {item.chunks} chunks, and is into {len(spans)} now")
    for span in spans:
        yield ItemChunk(number=item.first_chunk + span.index, item=item, span=span)
