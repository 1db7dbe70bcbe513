"""What is tried on gold documents, and what each trial must come to.

A mention or a relation counts where it stands whole in a chunk that was answered: no engine can say what no chunk shows it. That
is so for each that is no longer than the overlap, by chunking's estimate, where the overlap is at most half a chunk. With an
overlap as long as the longest statement everything counts, whatever the size of the chunks. With one that covers names only,
relations may be cut away, and all that counts must still be exact. Without any, names may be cut, and what is left of one may be
another name.

A relation is marked by its ends: one that is invented between two entities of the text cannot be told from the others.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import gold_dispatch
import gold_runs
from gold_corruption import HARMLESS, UNREADABLE, Corruption
from gold_documents import Gold
from gold_engine import Plan, ScriptedEngine, answer_rightly
from gold_runs import Cut, Finding

from aegis_workers.dispatch.attempts import MAX_REASKS

Read = Callable[[Gold, ScriptedEngine, Cut], Finding]

_DEFAULT_CUT = Cut(chunk_tokens=1500, overlap_tokens=100)
_CHUNK_TOKENS = (60, 100, 250, 600)
_SPOILED_SHARE = 0.4


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a number of a finding must be."""

    name: str
    value: Callable[[Finding], float]
    due: float

    def broken_by(self, finding: Finding) -> str | None:
        """In words, how `finding` misses the bound; None where it does not."""
        value = self.value(finding)
        return None if value == self.due else f"{self.name} {value:.6g}, not {self.due:g}"


# Whatever the engine does.
SAFE = (
    Bound(name="invented values let through", value=lambda one: one.score.let_through, due=0),
    Bound(name="entities said twice", value=lambda one: one.score.twice, due=0),
    Bound(name="chunks and documents that ended otherwise than they had to", value=lambda one: one.astray, due=0),
    Bound(name="documents that depend on the order of arrival", value=lambda one: one.unsteady, due=0),
)
FOUND = (Bound(name="recall of entities", value=lambda one: one.score.entities.recall, due=1),)
EXACT = (
    *FOUND,
    Bound(name="precision of entities", value=lambda one: one.score.entities.precision, due=1),
    Bound(name="recall of names", value=lambda one: one.score.names.recall, due=1),
    Bound(name="precision of names", value=lambda one: one.score.names.precision, due=1),
    Bound(name="recall of relations", value=lambda one: one.score.relations.recall, due=1),
    Bound(name="precision of relations", value=lambda one: one.score.relations.precision, due=1),
    Bound(name="grounding rate", value=lambda one: one.score.grounding_rate, due=1),
)
NOTHING_CUT_AWAY = (Bound(name="values that no chunk shows", value=lambda one: one.score.cut_away, due=0),)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Documents, cut in one way, read by an engine with one plan; `bounds` beside `SAFE`."""

    name: str
    cut: Cut
    plan: Plan = answer_rightly
    read: Read = gold_runs.read
    bounds: tuple[Bound, ...] = ()

    def run(self, golds: Sequence[Gold]) -> Finding:
        """What came of all `golds`; half of the engines take what an edge leaves of a name for a name."""
        engines = (
            ScriptedEngine(gold, seed=seed, plan=self.plan, names_fragments=seed % 2 == 1) for seed, gold in enumerate(golds)
        )
        return gold_runs.sum_up(self.read(gold, engine, self.cut) for gold, engine in zip(golds, engines, strict=True))

    def broken(self, finding: Finding) -> list[str]:
        """The bounds that `finding` misses, in words."""
        return list(filter(None, (bound.broken_by(finding) for bound in (*SAFE, *self.bounds))))


def all_of(golds: Sequence[Gold]) -> Iterator[Trial]:
    """Every trial that makes sense for `golds`."""
    statements, names = gold_runs.statements_tokens(golds), gold_runs.names_tokens(golds)
    everything = EXACT + NOTHING_CUT_AWAY
    yield Trial(name="right, default cut", cut=_DEFAULT_CUT, bounds=everything)
    for size in (2 * statements, 3 * statements, *_CHUNK_TOKENS):
        yield Trial(name="right", cut=Cut(chunk_tokens=size, overlap_tokens=statements), bounds=everything)
    for size in (2 * names, 3 * names, 100):
        yield Trial(name="right, overlap for names", cut=Cut(chunk_tokens=size, overlap_tokens=names), bounds=EXACT)
    yield Trial(name="right, no overlap", cut=Cut(chunk_tokens=60, overlap_tokens=0), bounds=FOUND)
    cut = Cut(chunk_tokens=100, overlap_tokens=statements)
    for corruption in Corruption:
        yield Trial(name=corruption, cut=cut, plan=_sometimes(corruption), bounds=_bounds_after(corruption))
    yield Trial(name="all of these", cut=cut, plan=_sometimes(*Corruption))
    read = gold_dispatch.read
    yield Trial(name="dispatch, right when asked again", cut=cut, plan=_right_at_last, read=read, bounds=everything)
    yield Trial(name="dispatch, all of these", cut=cut, plan=_sometimes(*Corruption), read=read)


def _bounds_after(corruption: Corruption) -> tuple[Bound, ...]:
    if corruption in HARMLESS:
        return EXACT + NOTHING_CUT_AWAY
    return () if corruption is Corruption.MISSING else FOUND


def _sometimes(*corruptions: Corruption) -> Plan:
    def plan(rng: random.Random, _asked: int) -> Corruption | None:
        return rng.choice(corruptions) if rng.random() < _SPOILED_SHARE else None

    return plan


def _right_at_last(rng: random.Random, asked: int) -> Corruption | None:
    """Answers that cannot be read, most often, for as long as the chunk is asked for again."""
    if asked == MAX_REASKS or rng.random() > _SPOILED_SHARE:
        return None
    return rng.choice(UNREADABLE)
