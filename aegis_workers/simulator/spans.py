"""Where a text speaks of something by its name: sentences, and the capitalised words in them."""

import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from aegis_workers.simulator import lexicon

# A line this long was wrapped, a shorter one was ended: what follows it is no continuation of a name.
_WRAPPED_CHARS = 60

# A name has a few words; capitals that go on and on are a heading or a table.
_MOST_LINKS = 9

_WORD = r"[^\W\d_a-zß-öø-ÿ](?:[\w\u0300-\u036f&-]|['\u2019](?!s\b))*"
_SPACE = r"(?:[ \t]|\n(?!\s))"
_LINK = rf"{_SPACE}(?:(?:of|de|van|von|der|du|for|&){_SPACE}(?:the{_SPACE})?)?"
# A number belongs to a name unless it counts or measures something.
_NUMBER = r"(?:[ \t]\d{1,4}(?![\w.,]*\s*[a-z%°±µ\d]))?"
_NAME = re.compile(rf"\b(?:(?:Dr|Prof|Mr|Mrs|Ms)\.[ \t])?{_WORD}(?:{_LINK}{_WORD}){{0,{_MOST_LINKS}}}{_NUMBER}")
_BELONGING = re.compile(rf"\b(\w+){_SPACE}(?:of|for){_SPACE}(?:the{_SPACE})?")
# Each alternative begins with the character that it is about, so that the search skips all others.
_END = re.compile(
    r"[.!?:;](?<!\b[A-Z]\.)(?<!\b(?:Dr|Mr|Ms|No)\.)(?<!\b(?:Mrs|Inc)\.)(?<!\bProf\.)[\"\u201d\u2019)]*\s+"
    r"|\n\s*|[ \t]{3,}"
)
_ITEM_OR_LABEL = re.compile(r"[-*#\d]|\w+:")
_NO_WORDS: AbstractSet[str] = frozenset()
_LETTER = re.compile(r"[^\W\d_]")
_LEAD = re.compile(r"\w+\s*")
_BEFORE = re.compile(r"([\w.]+)\s+$")
_FOLLOWS = re.compile(r"['\u2019]s\b|\s+([a-z]+)(\s+(?:the\s+|an?\s+)?[A-Z])?")


@dataclass(frozen=True, kw_only=True)
class Span:
    """Capitalised words that stand together: `surface` is `text[start:end]`, `before` the word that they follow."""

    start: int
    end: int
    surface: str
    opens: bool
    before: str

    @property
    def words(self) -> list[str]:
        """The words of the name."""
        return self.surface.split()


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each sentence, heading or line of its own."""
    start = 0
    for end in _END.finditer(text):
        if end.group().count("\n") == 1 and end.group()[0] == "\n" and _is_wrapped(text, end):
            continue
        yield start, end.start() + 1
        start = end.end()
    if start < len(text):
        yield start, len(text)


def _is_wrapped(text: str, end: re.Match[str]) -> bool:
    line_chars = end.start() - text.rfind("\n", 0, end.start()) - 1
    return line_chars >= _WRAPPED_CHARS and _ITEM_OR_LABEL.match(text, end.end()) is None


def find(text: str, start: int, end: int, words: AbstractSet[str]) -> Iterator[Span]:
    """The spans of one sentence, without the common words that lead them. `words`: those of the whole text."""
    for found in _NAME.finditer(text, start, end):
        at, stop = found.span()
        for link in _BELONGING.finditer(text, at, stop):
            # "Museum of X" is one name, "Captain Y of X" is two.
            if lexicon.HEADS.isdisjoint(text[at : link.end(1)].split()):
                yield from _trimmed(text, start, at, link.end(1), words)
                at = link.end()
        yield from _trimmed(text, start, at, stop, words)


def _trimmed(text: str, sentence_start: int, at: int, stop: int, words: AbstractSet[str]) -> Iterator[Span]:
    opens = _LETTER.search(text, sentence_start, at) is None
    while (lead := _LEAD.match(text, at, stop)) and _is_common(lead.group().strip(), words if opens else _NO_WORDS):
        at = lead.end()
        opens = False
    surface = text[at:stop].rstrip(" \t\n.,-&'\u2019")
    if len(surface) > 1 and surface[0].isupper():
        before = _BEFORE.search(text, max(sentence_start, at - 30), at)
        word = before.group(1).lower() if before else ""
        yield Span(start=at, end=at + len(surface), surface=surface, opens=opens, before=word)


def _is_common(word: str, written_small: AbstractSet[str]) -> bool:
    """Whether the word is no name: one that everybody knows, or one that the text also writes small."""
    return word.lower() in lexicon.COMMON or (word[1:].islower() and word.lower() in written_small)


def is_name(span: Span, text: str, certain: AbstractSet[str]) -> bool:
    """Whether the capital means a name, and not only that a sentence begins. `certain`: what is capitalised elsewhere too."""
    if not span.opens or len(span.words) > 1 or span.surface in certain or not span.surface[1:].islower():
        return True
    if span.surface in lexicon.PLACES or span.surface in lexicon.GIVEN_NAMES:
        return True
    follows = _FOLLOWS.match(text, span.end)
    if follows is None:
        return False
    verb, name_after = follows.groups()
    # "Patients received" is a plural, "Siemens acquired Mentor" hardly.
    return verb is None or (lexicon.is_verb(verb) and (not span.surface.endswith("s") or name_after is not None))
