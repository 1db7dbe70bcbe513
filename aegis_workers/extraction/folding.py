"""Texts compared as a reader would: without case, width, composition, the kind of dash, quote or space."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from aegis_workers.extraction import characters

# ASCII words with single spaces fold by case alone, unless a mark may follow; white space folds to one space; the rest goes by
# graphemes.
_PIECES = re.compile(r"(?P<ascii>[!-~](?:[!-~]| (?=[!-~]))*(?![^\x00-\x7f\s]))|(?P<space>\s+)|[!-~]?[^\x00-\x7f\s]+|.", re.DOTALL)
_SAME = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63", "-")
    | dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4`", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", None)
)


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A folded text and where each of its characters came from: `starts[i]` to `ends[i]` in the original."""

    text: str
    starts: list[int]
    ends: list[int]

    def is_edge(self, index: int) -> bool:
        """Whether the original can be cut at `index`: not inside what one original grapheme became."""
        return index in {0, len(self.text)} or self.starts[index] != self.starts[index - 1]


@lru_cache(4096)
def fold(text: str) -> str:
    """The form of `text` in which two spellings of the same words are equal; blank at neither end."""
    return fold_with_offsets(text).text.strip()


def fold_with_offsets(text: str) -> Folded:
    """`text` folded, with the way back to the original."""
    parts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for piece in _PIECES.finditer(text):
        start, end = piece.span()
        letters = piece[0].lower().replace("`", "'") if piece["ascii"] else _fold_letters(piece[0])
        if letters is not None:
            parts.append(letters)
            starts.extend(range(start, end))
            ends.extend(range(start + 1, end + 1))
            continue
        graphemes: Iterable[tuple[int, int, str]] = [(start, end, " ")] if piece["space"] else _fold_graphemes(text, start, end)
        for begin, stop, folded in graphemes:
            parts.append(folded)
            starts.extend([begin] * len(folded))
            ends.extend([stop] * len(folded))
    return Folded(text="".join(parts), starts=starts, ends=ends)


def _fold_letters(word: str) -> str | None:
    """`word` folded, where that takes each letter to one letter: the quick way through most words of most scripts."""
    if not word.isalpha() or not unicodedata.is_normalized("NFKC", word):
        return None
    folded = word.casefold()
    return folded if len(folded) == len(word) and unicodedata.is_normalized("NFKC", folded) else None


def _fold_graphemes(text: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    breaks = [index for index in range(start + 1, end) if characters.is_grapheme_break(text, index)]
    for begin, stop in pairwise([start, *breaks, end]):
        yield begin, stop, _fold_grapheme(text[begin:stop])


@lru_cache(8192)
def _fold_grapheme(grapheme: str) -> str:
    same = grapheme.translate(_SAME)
    # A lone accent decomposes into a space and a mark: it would fold to white space that is not there.
    form: Literal["NFC", "NFKC"] = "NFC" if " " in unicodedata.normalize("NFKC", same) else "NFKC"
    return unicodedata.normalize(form, unicodedata.normalize(form, same).casefold()).translate(_SAME)
