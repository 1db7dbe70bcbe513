"""Where a text may be cut: between graphemes, and between words.

Python's own tables know no grapheme clusters. The rules here are the part of Unicode's annex 29 that is stable and cheap: marks,
joiners, emoji modifiers, tags, flags and Hangul syllables in single letters stay with what stands before them.
"""

import re
import unicodedata

_JOINER = "\u200d"
# Joiners, variation selectors, emoji modifiers and tags: they extend what stands before them, and not all are marks by category.
_EXTENDERS = re.compile("[\u200c\u200d\ufe00-\ufe0f\uff9e\uff9f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f\U000e0100-\U000e01ef]")
_FLAG_LETTERS = re.compile("[\U0001f1e6-\U0001f1ff]")
_JAMO_AFTER_FIRST = re.compile("[\u1160-\u11ff\ud7b0-\ud7ff]")
_HANGUL = re.compile("[\u1100-\u11ff\ua960-\ua97f\uac00-\ud7ff]")

# Scripts that put no space between words (line breaking classes ID and SA of Unicode's annex 14), and Hangul, whose particles
# are written onto the word: in all of these a word may begin and end next to another letter.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u3005-\u3007\u3040-\u30ff"
    "\u3100-\u318f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uaa60-\uaadf\uac00-\ud7ff\uf900-\ufaff"
    "\uff66-\uffdc\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
# Invisible characters that stand inside a word: soft hyphen, zero-width non-joiner and joiner.
_WORD_INTERNAL = "\u00ad\u200c\u200d"


def extends(character: str) -> bool:
    """Whether `character` belongs to the grapheme before it: a combining mark, a joiner, a modifier."""
    return character >= "\u0300" and (unicodedata.category(character)[0] == "M" or _EXTENDERS.match(character) is not None)


def is_grapheme_break(text: str, index: int) -> bool:
    """Whether `text` may be cut at `index` without tearing what a reader sees as one character. True at both ends."""
    if index <= 0 or index >= len(text):
        return True
    before, after = text[index - 1], text[index]
    if after < "\u0300":
        return not (before == "\r" and after == "\n")
    if extends(after) or before == _JOINER:
        return False
    if _FLAG_LETTERS.match(after):
        return _flag_letters_before(text, index) % 2 == 0
    return not (_JAMO_AFTER_FIRST.match(after) and _HANGUL.match(before))


def is_word_break(text: str, index: int) -> bool:
    """Whether a word may begin or end at `index`: not inside a grapheme, nor between letters of a script that uses spaces."""
    if index <= 0 or index >= len(text):
        return True
    before, after = text[index - 1], text[index]
    if not (_in_word(before) and _in_word(after)):
        return is_grapheme_break(text, index)
    return bool(_UNSPACED.match(before) or _UNSPACED.match(after)) and is_grapheme_break(text, index)


def _in_word(character: str) -> bool:
    return character.isalnum() or (not character.isascii() and (character in _WORD_INTERNAL or extends(character)))


def _flag_letters_before(text: str, index: int) -> int:
    first = index
    while first > 0 and _FLAG_LETTERS.match(text[first - 1]):
        first -= 1
    return index - first
