"""Where the words that an engine gave stand in the text.

An engine says words, never offsets: those it would invent. Every place where its words stand becomes a mention; words that stand
nowhere are kept and marked, so that nobody takes them for the text's.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from aegis_workers.extraction import characters, folding, spacing
from aegis_workers.extraction.chunking import Chunk

Span = tuple[int, int]

# What a relation cannot do without.
_SAID = ("source", "relation", "target")


class Ground:
    """A chunk's text, ready to be searched for many words. Spans are offsets into the document."""

    def __init__(self, chunk: Chunk) -> None:
        self._chunk = chunk

    def exact(self, words: str) -> list[Span]:
        """Every place where these words stand as whole words, white space aside; those of one form do not overlap."""
        spaced = self._spaced
        places = _occurrences(spaced.text, spacing.single(words))
        return self._whole((spaced.original(first), spaced.original(last - 1) + 1) for first, last in places)

    def alike(self, words: str) -> list[Span]:
        """Every place where words stand that differ only in case, width, white space, dashes or quotes."""
        folded = self._folded
        places = _occurrences(folded.text, folding.fold(words))
        return self._whole(
            (folded.starts[first], folded.ends[last - 1])
            for first, last in places
            if folded.is_edge(first) and folded.is_edge(last)
        )

    @cached_property
    def _spaced(self) -> spacing.SingleSpaced:
        return spacing.SingleSpaced(self._chunk.text)

    @cached_property
    def _folded(self) -> folding.Folded:
        return folding.fold_with_offsets(self._chunk.text)

    def _whole(self, places: Iterator[Span]) -> list[Span]:
        offset = self._chunk.start
        spans: list[Span] = []
        end_of_last = -1
        for start, end in places:
            if start >= end_of_last and self._is_word_break(start) and self._is_word_break(end):
                spans.append((start + offset, end + offset))
                end_of_last = end
        return spans

    def _is_word_break(self, index: int) -> bool:
        if index == 0:
            return not self._chunk.opens_mid_word
        if index == len(self._chunk.text):
            return not self._chunk.closes_mid_word
        return characters.is_word_break(self._chunk.text, index)


def ground(data: Mapping[str, Any], chunk: Chunk) -> dict[str, Any]:
    """The answer of the default schema in its public form: each mention a span of the document, or marked `ungrounded`.

    Entities without a name, and relations without two ends and a verb, say nothing and are left out.
    """
    text = Ground(chunk)
    return {
        "entities": [_grounded(entity, text) for entity in data["entities"] if entity["name"].strip()],
        "relations": [_single_spaced(relation) for relation in data["relations"] if _is_said(relation)],
    }


def _grounded(entity: Mapping[str, Any], text: Ground) -> dict[str, Any]:
    forms = dict.fromkeys(spacing.single(words) for words in entity["mentions"] if words.strip())
    found = {words: text.exact(words) or text.alike(words) for words in forms}
    spans = {span for places in found.values() for span in places}
    # The name is a form like the others where it stands in the text, but an engine may well take it from another chunk. Spelled
    # otherwise it counts only where nothing else is found: a company "Apple" is no reason to call every apple a mention of it.
    name = spacing.single(entity["name"])
    if name not in found:
        spans.update(text.exact(name) or ([] if spans else text.alike(name)))
    missing = [words for words, places in found.items() if not places] or ([] if spans else [name])
    return public({**entity, "name": name}, spans, missing)


def public(entity: Mapping[str, Any], spans: set[Span], missing: list[str]) -> dict[str, Any]:
    """An entity as results hold it: mentions in text order, those without a place last."""
    mentions: list[dict[str, Any]] = [{"start": start, "end": end} for start, end in sorted(spans)]
    mentions += [{"text": words, "ungrounded": True} for words in missing]
    fields = {key: entity[key] for key in ("name", "type", "description", "confidence")}
    return fields | {"mentions": mentions} | ({} if spans else {"ungrounded": True})


def _is_said(relation: Mapping[str, Any]) -> bool:
    return all(relation[part].strip() for part in _SAID)


def _single_spaced(relation: Mapping[str, Any]) -> dict[str, Any]:
    return dict(relation) | {part: spacing.single(relation[part]) for part in _SAID}


def _occurrences(text: str, words: str) -> Iterator[Span]:
    """Every place of `words` in `text`, overlapping ones too; none for blank words."""
    start = text.find(words) if words else -1
    while start >= 0:
        yield start, start + len(words)
        start = text.find(words, start + 1)
