"""Spans of a text that fit one call each, with exact offsets.

Costs are counted in quarters of a token, so that they are whole numbers and add up over any cut.
"""

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from aegis_workers.extraction import characters

# Tokenizers of today's models are byte-level: English takes about 4 bytes a token, alphabets of two bytes (Cyrillic, Greek,
# Arabic, Hebrew) about 2 letters, and a character of three or four bytes (Han, kana, Thai, emoji) up to a whole one. Prose comes
# out somewhat high; tables and long numbers can take half as much again, which the room that is left for the answer absorbs.
_QUARTERS_PER_TOKEN = 4
_BYTES_OF_SHORT_CHARACTERS_AND_TAILS = bytes(range(0xE0))

# From the best place to end a chunk to the last resort but one. Each looks at a fixed number of characters from any place, so
# that no text makes a search slow.
_ENDINGS = (
    re.compile(r"\n[^\S\n]*\n|[\f\u2029]"),
    re.compile(
        r"(?<=[.!?…؟۔।॥])\s|(?<=[.!?…][\"'”’»)\]])\s|(?<=[。！？｡])(?![。！？｡」』”’）])|(?<=[。！？｡][」』”’）])(?![」』”’）])"  # noqa: RUF001 - full-width marks are meant
    ),
    re.compile(r"\n|\r(?!\n)|[\x85\u2028]"),
    re.compile(r"\s|(?<=[、，；：])"),  # noqa: RUF001 - full-width marks are meant
)
_VISIBLE = re.compile(r"\S")
# How far a cut goes back for the end of a word without a space after it, or of a grapheme; longer ones are cut inside.
_MAX_WORD = 64


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A span of a document: `text` is `document[start:end]`. It begins and ends with a visible character.

    `opens_mid_word`, `closes_mid_word`: the cut goes through a word, which happens only where one is longer than what the overlap
    leaves of a chunk, or very long.
    """

    index: int
    start: int
    end: int
    text: str
    opens_mid_word: bool = False
    closes_mid_word: bool = False


def estimate_tokens(text: str) -> int:
    """About how many tokens `text` is: 4 ASCII characters a token, 2 of a two-byte alphabet, 1 of any other script.

    Never less for a longer text; 0 only for the empty one.
    """
    return -(-_quarters(text) // _QUARTERS_PER_TOKEN)


def split(text: str, *, max_tokens: int, overlap_tokens: int) -> tuple[Chunk, ...]:
    """The chunks of `text`, in its order; none where it is blank. Every visible character is in at least one of them.

    A chunk ends after a paragraph, else a sentence, a line, a word, a grapheme, whichever comes first in this list and leaves it
    at least half full. The next one begins at a word boundary up to `overlap_tokens` (at most half of `max_tokens`) before that
    end, so that whatever begins with a word and is no longer than the overlap stands whole in a chunk. A chunk is larger than
    `max_tokens` only where one character is.
    """
    if max_tokens < 1 or overlap_tokens < 0:
        raise ValueError(f"max_tokens={max_tokens} must be at least 1 and overlap_tokens={overlap_tokens} at least 0")
    budget = max_tokens * _QUARTERS_PER_TOKEN
    overlap = min(overlap_tokens * _QUARTERS_PER_TOKEN, budget // 2)
    stop = len(text.rstrip())
    chunks: list[Chunk] = []
    start = uncovered = _next_visible(text, 0)
    while uncovered < stop:
        cut = _cut(text, start, budget, beyond=uncovered, stop=stop)
        chunks.append(_chunk(text, len(chunks), start, cut))
        uncovered = _next_visible(text, cut)
        if uncovered >= stop:
            break  # the overlap is for a chunk that follows
        earlier = _next_visible(text, _overlap_start(text, start, cut, overlap))
        start = earlier if _reach(text, earlier, budget) > uncovered else uncovered
    return tuple(chunks)


def count(text: str, *, max_tokens: int, overlap_tokens: int) -> int:
    """How many chunks `split` makes of `text`, at next to no cost where the whole of it fits one."""
    if estimate_tokens(text) <= max_tokens:
        return 1 if _VISIBLE.search(text) else 0
    return len(split(text, max_tokens=max_tokens, overlap_tokens=overlap_tokens))


def _quarters(text: str) -> int:
    if text.isascii():
        return len(text)
    data = text.encode("utf-8", "surrogatepass")
    return len(data) + len(data.translate(None, _BYTES_OF_SHORT_CHARACTERS_AND_TAILS))


def _chunk(text: str, index: int, start: int, cut: int) -> Chunk:
    words = text[start:cut].rstrip()
    end = start + len(words)
    return Chunk(
        index=index,
        start=start,
        end=end,
        text=words,
        opens_mid_word=not characters.is_word_break(text, start),
        closes_mid_word=not characters.is_word_break(text, end),
    )


def _reach(text: str, start: int, budget: int) -> int:
    """The last index that a chunk from `start` can end at, at least one character further."""
    if len(text) - start <= budget and _quarters(text[start:]) <= budget:
        return len(text)
    ends = range(start + 1, min(len(text), start + budget) + 1)
    return start + max(1, bisect_right(ends, budget, key=lambda end: _quarters(text[start:end])))


def _cut(text: str, start: int, budget: int, *, beyond: int, stop: int) -> int:
    """Where the chunk from `start` ends: always beyond the character at `beyond`, which no chunk has yet."""
    limit = _reach(text, start, budget)
    if limit >= stop:
        return stop
    # Half by cost, not by characters: the overlap is counted in tokens, and what begins this chunk must reach beyond it.
    floor = max(beyond, _reach(text, start, budget // 2))
    for ending in _ENDINGS:
        ends = [match.end() for match in ending.finditer(text, floor, limit)]
        if ends and ends[-1] > floor:
            return ends[-1]
    within = range(limit, max(floor, limit - _MAX_WORD), -1)
    word_end = next((index for index in within if characters.is_word_break(text, index)), None)
    return word_end or _whole_graphemes(text, limit, beyond)


def _whole_graphemes(text: str, limit: int, beyond: int) -> int:
    within = range(limit, max(beyond, limit - _MAX_WORD), -1)
    return next((index for index in within if characters.is_grapheme_break(text, index)), limit)


def _overlap_start(text: str, start: int, cut: int, overlap: int) -> int:
    """Where the first word in the last `overlap` before `cut` begins, and after `start`; `cut` where none does."""
    begins = range(max(start + 1, cut - overlap), cut)
    earliest = begins.start + bisect_left(begins, -overlap, key=lambda begin: -_quarters(text[begin:cut]))
    return next((index for index in range(earliest, cut) if _begins_word(text, index)), cut)


def _begins_word(text: str, index: int) -> bool:
    if text[index].isspace():
        return False
    return text[index - 1].isspace() or (text[index].isalnum() and characters.is_word_break(text, index))


def _next_visible(text: str, index: int) -> int:
    found = _VISIBLE.search(text, index)
    return found.start() if found else len(text)
