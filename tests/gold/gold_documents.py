"""Seeded documents of which every entity, mention and relation is known, with its offsets."""

import random
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from gold_cast import CAST, FILLERS, INTRODUCTIONS, LONG_FILLER, NAMINGS, NEGATIONS, SEPARATORS, STATEMENTS, TIGHT_NAMINGS, Entity

Span = tuple[int, int]
# Which entity, in which of its forms.
Named = tuple[Entity, str]

# From Thai on, nearly all scripts write words without spaces, or particles onto words.
_UNSPACED = "\u0e00"
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Mention:
    """A place where the text names `entity` in `form`; the text's own spelling of it may be in capitals, or broken over lines."""

    entity: Entity
    form: str
    span: Span


@dataclass(frozen=True, kw_only=True)
class Statement:
    """The shortest span that says that `source` and `target` are related."""

    source: Entity
    verb: str
    target: Entity
    span: Span


@dataclass(frozen=True, kw_only=True)
class Gold:
    """A document and what a right reading of it finds. `introductions` are the spans that say which forms mean the same."""

    text: str
    mentions: tuple[Mention, ...]
    statements: tuple[Statement, ...]
    introductions: tuple[Span, ...]

    def words(self, span: Span) -> str:
        """The text at `span`."""
        return self.text[slice(*span)]

    def says(self, words: str) -> bool:
        """Whether `words` stand in the text as words of their own, in whatever case, width, composition or spacing."""
        text, sought = _loose(self.text), _loose(words)
        places = (found.span() for found in re.finditer(f"(?={re.escape(sought)})", text))
        return any(not _in_word(text, start) and not _in_word(text, start + len(sought)) for start, _ in places)

    def names(self) -> Mapping[str, Entity]:
        """Every spelling of an entity's name that the text has, with single spaces."""
        named = (mention for mention in self.mentions if mention.form == mention.entity.forms[0])
        return {" ".join(self.words(mention.span).split()): mention.entity for mention in named}


def generate(seed: int, parts: int) -> Gold:
    """A document of `parts` statements, mentions and fillers; the same for the same arguments."""
    rng = random.Random(seed)  # noqa: S311 - a seeded text, no secret
    writer = _Writer(rng)
    cast = rng.sample(CAST, rng.randint(4, 12))
    for _ in range(parts):
        _write_part(writer, cast, rng)
        writer.write(rng.choice(SEPARATORS))
    return writer.gold()


def documents(seed: int, count: int) -> Iterable[Gold]:
    """`count` documents, from a line or two to some pages."""
    rng = random.Random(seed)  # noqa: S311 - likewise
    return (generate(rng.getrandbits(32), rng.choice((1, 5, 20, 60))) for _ in range(count))


def is_inside(span: Span, place: Span) -> bool:
    """Whether all of `span` stands in `place`."""
    return place[0] <= span[0] and span[1] <= place[1]


@lru_cache
def _loose(words: str) -> str:
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", words).casefold()).replace("\u200d", "")
    return " ".join(plain.replace("\u2019", "'").split())


def _in_word(text: str, index: int) -> bool:
    """Whether `index` lies between two letters of a script that puts spaces between words."""
    around = text[max(0, index - 1) : index + 1]
    return 0 < index < len(text) and all(letter.isalnum() and letter < _UNSPACED for letter in around)


def _write_part(writer: "_Writer", cast: list[Entity], rng: random.Random) -> None:
    one, other = rng.sample(cast, 2)
    match rng.choice(("statement", "statement", "negation", "naming", "tight naming", "filler", "long filler")):
        case "statement":
            writer.state(*rng.choice(STATEMENTS), one, other)
        case "negation":
            writer.fill(rng.choice(NEGATIONS), {"source": writer.named(one), "target": writer.named(other)})
        case "naming":
            writer.fill(rng.choice(NAMINGS), {"name": writer.named(one)})
        case "tight naming":
            writer.fill(rng.choice(TIGHT_NAMINGS), {"name": writer.named(one)})
        case "filler":
            writer.write(rng.choice(FILLERS))
        case _:
            writer.write(LONG_FILLER * rng.choice((1, 1, 1, 10)))


@dataclass
class _Writer:
    rng: random.Random
    text: str = ""
    mentions: list[Mention] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    introductions: list[Span] = field(default_factory=list)
    known: set[Entity] = field(default_factory=set)

    def gold(self) -> Gold:
        return Gold(
            text=self.text,
            mentions=tuple(self.mentions),
            statements=tuple(self.statements),
            introductions=tuple(self.introductions),
        )

    def write(self, words: str) -> Span:
        start = len(self.text)
        self.text += words
        return start, len(self.text)

    def named(self, entity: Entity) -> Named:
        """A form of `entity` that a reader knows by now: it is introduced first, where it has several."""
        if entity not in self.known:
            self.known.add(entity)
            for short in entity.forms[1:]:
                slots = {"full": (entity, entity.forms[0]), "short": (entity, short)}
                self.introductions.append(self.fill(self.rng.choice(INTRODUCTIONS), slots))
                self.write(". ")
        return entity, self.rng.choice(entity.forms)

    def state(self, template: str, verb: str, source: Entity, target: Entity) -> None:
        span = self.fill(template, {"source": self.named(source), "target": self.named(target)})
        self.statements.append(Statement(source=source, verb=verb, target=target, span=span))

    def fill(self, template: str, slots: Mapping[str, Named]) -> Span:
        """Write `template` with its slots filled; the span of what was written."""
        start = len(self.text)
        for index, piece in enumerate(_SLOT.split(template)):
            if index % 2:
                self._mention(*slots[piece])
            else:
                self.write(piece)
        return start, len(self.text)

    def _mention(self, entity: Entity, form: str) -> None:
        # A chunk may begin at a word; what begins with a mark is a word of its own only after a space.
        if self.text and not self.text[-1].isspace() and not form[0].isalnum():
            self.write(" ")
        self.mentions.append(Mention(entity=entity, form=form, span=self.write(self._spelled(form))))

    def _spelled(self, form: str) -> str:
        if " " not in form:
            return form
        return self.rng.choice((form, form, form.replace(" ", "\n", 1), form.replace(" ", "  "), form.upper()))
