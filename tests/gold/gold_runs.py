"""Gold documents on their way through the pure path: cut, asked for, read and merged."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import gold_scoring
from gold_documents import Gold
from gold_engine import ScriptedEngine
from gold_scoring import Score

from aegis_workers.extraction import chunking, document, merging, prompt, schema
from aegis_workers.extraction.merging import ChunkResult
from aegis_workers.outcome import Status

DEFAULT = schema.compile(None)
ANSWERED = frozenset({Status.OK, Status.EMPTY})
_ORDERS = 2


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How documents are cut into chunks."""

    chunk_tokens: int
    overlap_tokens: int


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of a document, or of several.

    `statuses` are those of the chunks. `astray`: chunks and documents that did not end as they had to. `unsteady`: documents
    that came out otherwise when their chunks arrived in another order.
    """

    score: Score = field(default_factory=Score)
    statuses: Counter[Status] = field(default_factory=Counter)
    astray: int = 0
    unsteady: int = 0

    def __add__(self, other: "Finding") -> "Finding":
        return Finding(
            score=self.score + other.score,
            statuses=self.statuses + other.statuses,
            astray=self.astray + other.astray,
            unsteady=self.unsteady + other.unsteady,
        )


def sum_up(findings: Iterable[Finding]) -> Finding:
    """All of `findings` as one."""
    return sum(findings, start=Finding())


def names_tokens(golds: Iterable[Gold]) -> int:
    """The overlap by which no name and no introduction of a short form is cut out of every chunk."""
    return _longest(gold.words(span) for gold in golds for span in (*gold.introductions, *(one.span for one in gold.mentions)))


def statements_tokens(golds: Sequence[Gold]) -> int:
    """The overlap by which nothing that the gold knows is cut out of every chunk."""
    return max(names_tokens(golds), _longest(gold.words(one.span) for gold in golds for one in gold.statements))


def _longest(words: Iterable[str]) -> int:
    return max(map(chunking.estimate_tokens, words), default=1)


def read(gold: Gold, engine: ScriptedEngine, cut: Cut) -> Finding:
    """The document through chunks, prompts, answers and results, merged in several orders of arrival."""
    chunks = chunking.split(gold.text, max_tokens=cut.chunk_tokens, overlap_tokens=cut.overlap_tokens)
    answers = [engine.answer(prompt.messages(chunk.text, DEFAULT, None)) for chunk in chunks]
    results = [document.read(answer.completion, chunk, DEFAULT) for answer, chunk in zip(answers, chunks, strict=True)]
    merged = merging.merge(results, DEFAULT)
    statuses = [result.status for result in results]
    due = [answer.status for answer in answers]
    seen = [(one.chunk.start, one.chunk.end) for one in results if one.status in ANSWERED]
    unmarked = sum(gold_scoring.count_unmarked(one.data, answer.invented) for one, answer in zip(results, answers, strict=True))
    return Finding(
        score=gold_scoring.score(merged.data, gold, seen) + Score(let_through=unmarked),
        statuses=Counter(statuses),
        astray=count_astray([*statuses, merged.status], [*due, due_status(due)]),
        unsteady=int(any(merging.merge(order, DEFAULT) != merged for order in _orders(gold, results))),
    )


def count_astray(statuses: Iterable[Status], due: Iterable[Status]) -> int:
    """How many of `statuses` are not what is `due` in their place."""
    return sum(status is not wanted for status, wanted in zip(statuses, due, strict=True))


def due_status(chunks: Sequence[Status]) -> Status:
    """How a document has to end whose chunks end like this: with its answers, with some of them, or with the gravest reason."""
    answered = ANSWERED.intersection(chunks)
    if ANSWERED.issuperset(chunks):
        return Status.OK if Status.OK in answered else Status.EMPTY
    if answered:
        return Status.PARTIAL
    return Status.TRUNCATED if Status.TRUNCATED in chunks else Status.INVALID


def _orders(gold: Gold, results: Sequence[ChunkResult]) -> Iterator[Sequence[ChunkResult]]:
    rng = random.Random(gold.text)  # noqa: S311 - a seeded order, no secret
    return (rng.sample(results, len(results)) for _ in range(_ORDERS))
