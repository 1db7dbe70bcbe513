"""Bulk jobs in Redis, as their leader moves them: the window of each that is in motion, and how far it has come.

Every write carries the leader's token and is one script. A write that may have happened, because its answer was lost, is not sent
again blindly: the second one is `MOVED`, and the job is read anew.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from typing import Any, Final, TypeVar

import redis.asyncio

from aegis_workers.outcome import Status
from aegis_workers.state import cancels, job_outcomes, job_scripts, job_state, keys
from aegis_workers.state.job_outcomes import Outcome, Recorded, Word
from aegis_workers.state.job_state import JobState
from aegis_workers.state.job_totals import Totals

T = TypeVar("T")

_MARKS_AT_ONCE: Final = 1000


class Ruling(StrEnum):
    """What became of a leader's write.

    `done`. `not_leader`: another one leads; stop at once. `gone`: Redis does not know the job. `closing`: the job takes nothing
    in. `moved`: the job is not as the writer expected; read it and decide again. Nothing was written unless `done`.
    """

    DONE = "done"
    NOT_LEADER = "not_leader"
    GONE = "gone"
    CLOSING = "closing"
    MOVED = "moved"


_RULINGS: Final = {-1: Ruling.NOT_LEADER, -2: Ruling.GONE, -3: Ruling.CLOSING, -4: Ruling.MOVED}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A micro-batch to be fed: `chunks` are ranges of chunk numbers, both ends included; `message` as the queue holds it."""

    batch_id: str
    chunks: Sequence[tuple[int, int]]
    message: bytes


@dataclass(frozen=True, kw_only=True)
class FedBatch:
    """A micro-batch that was fed and is not finished. `at_ms`: when, by the clock of Redis."""

    batch_id: str
    chunks: Sequence[tuple[int, int]]
    count: int
    size_bytes: int
    at_ms: int


@dataclass(frozen=True, kw_only=True)
class Image:
    """A job as its leader knows it from the disk.

    `done` has the bits of the chunks whose outcomes are collected: chunk n is `done[n // 8] & (0x80 >> n % 8)`; give it its full
    length, (chunks + 7) // 8 bytes, and it never grows. `survivors`: outcomes that were recorded and are not on disk; they are
    numbered from `collected + 1` on, in their order, and a second one of a chunk is dropped and counted.
    """

    fed: int = 0
    collected: int = 0
    engine: str | None = None
    items: Mapping[Status, int] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    done: bytes = b""
    survivors: Sequence[Outcome] = ()


class Jobs:
    """The leader's way to the jobs in Redis. Every method raises `RedisError`; after one a write may have happened or not."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._feed = client.register_script(job_scripts.FEED)
        self._commit = client.register_script(job_scripts.COMMIT)
        self._install = client.register_script(job_scripts.INSTALL)

    async def feed(  # noqa: PLR0913 - who, where, what, and what it is decided on
        self, token: int, job_id: str, batches: Sequence[Batch], *, queue: str, fed: int, fed_after: int, lost: str = ""
    ) -> Ruling:
        """Put batches into the queue, in their order, if the lowest chunk that was never fed is `fed`; then it is `fed_after`.

        All of them or none; give no more than about 1 MB at once. A full Redis refuses them: `connection.is_full`.
        """
        words = chain.from_iterable(_batch_words(batch) for batch in batches)
        names = [keys.CONTROLLER, keys.job(job_id), keys.job_batches(job_id), queue]
        return ruling(await self._feed(keys=names, args=[token, fed, fed_after, lost, *words]))

    async def refeed(self, token: int, job_id: str, lost: str, batches: Sequence[Batch], *, queue: str, fed: int) -> Ruling:
        """Put batches into the queue in the place of one whose message is lost; `moved` if that one is finished after all."""
        return await self.feed(token, job_id, batches, queue=queue, fed=fed, fed_after=fed, lost=lost)

    async def collect(self, job_id: str, after: int, count: int) -> list[Recorded]:
        """Up to `count` outcomes that are numbered above `after`, in order and without a gap.

        A gap before the first one, or a job whose `collected` is not `after`, means that Redis lost writes: install it anew.
        """
        asked = ("XRANGE", keys.job_outcomes(job_id), f"{after + 1}-0", "+", "COUNT", count)
        command: Any = self._client.execute_command  # which redis-py leaves untyped
        answer = await command(*asked, NEVER_DECODE=True)
        return [job_outcomes.recorded(entry_id, fields) for entry_id, fields in answer]

    async def commit(  # noqa: PLR0913 - who, which, from where to where, and what it adds
        self,
        token: int,
        job_id: str,
        *,
        collected: int,
        last: Recorded | int,
        size_bytes: int,
        items: Mapping[Status, int],
        totals: Totals,
    ) -> Ruling:
        """The outcomes from `collected + 1` to `last` are on disk: forget them, and count the items that became complete.

        `last` is a number where the leader itself wrote the outcomes, of a job that is closing.
        `size_bytes` is the sum of theirs. `moved` if another number than `collected` is collected, or if Redis has lost what was
        read, even where it has as many outcomes again. Works on a full Redis.
        """
        counts = _flat({"held_bytes": -size_bytes, **job_state.counts(items, totals)})
        names = [keys.CONTROLLER, keys.job(job_id), keys.job_outcomes(job_id)]
        number, entry_id = (last, "") if isinstance(last, int) else (last.number, last.entry_id)
        return ruling(await self._commit(keys=names, args=[token, collected, number, entry_id, *counts]))

    async def install(self, token: int, job_id: str, image: Image, *, recorded: int | None) -> Ruling:
        """Build the job in Redis, or build it anew, open; what is in motion of one that is there stays.

        `recorded` is the number of its last outcome there when the image was made, None if Redis did not know it: `moved` if that
        has changed, because what was recorded since would be lost.
        """
        facts: dict[str, Word] = {
            "recorded": image.collected,
            "collected": image.collected,
            "fed": image.fed,
            **({"engine": image.engine} if image.engine else {}),
            **job_state.counts(image.items, image.totals),
        }
        words = _flat(facts)
        names = [keys.CONTROLLER, *_own_keys(job_id), keys.JOBS]
        expected = "" if recorded is None else recorded
        survivors = chain.from_iterable(job_outcomes.words(outcome) for outcome in image.survivors)
        return ruling(await self._install(keys=names, args=[token, job_id, expected, len(words), *words, image.done, *survivors]))

    async def note(self, token: int, job_id: str, *, engine: str | None = None, waits: str | None = None) -> Ruling:
        """Write down the engine to which the job keeps, or why it waits; an empty word takes back, None leaves as it is."""
        facts = {"engine": engine, "waits": waits}
        words = _flat({name: fact for name, fact in facts.items() if fact is not None})
        return ruling(await self._client.eval(job_scripts.NOTE, 2, keys.CONTROLLER, keys.job(job_id), str(token), *words))

    async def close(self, token: int, job_id: str) -> Ruling:
        """From here on nothing of the job is fed or recorded; what is recorded can be collected. Works on a full Redis."""
        return ruling(await self._client.eval(job_scripts.CLOSE, 2, keys.CONTROLLER, keys.job(job_id), str(token)))

    async def drop(self, token: int, job_id: str) -> Ruling:
        """Forget the job; workers pass over its messages. Works on a full Redis."""
        names = [keys.CONTROLLER, keys.JOBS, *_own_keys(job_id)]
        return ruling(await self._client.eval(job_scripts.DROP, len(names), *names, str(token), job_id))

    async def cancel_batches(self, job_id: str) -> int:
        """Have the calls of all batches that are not finished closed at the engines; how many batches. Close the job before."""
        found: Any = await self._client.hkeys(keys.job_batches(job_id))
        for start in range(0, len(found), _MARKS_AT_ONCE):
            await cancels.share(self._client, found[start : start + _MARKS_AT_ONCE], cancels.Cancel.TERMINATE)
        return len(found)

    async def batches(self, job_id: str) -> list[FedBatch]:
        """The batches that were fed and are not finished, the oldest first."""
        found: Any = await self._client.hgetall(keys.job_batches(job_id))
        return sorted((_fed(batch_id, text) for batch_id, text in found.items()), key=lambda batch: batch.at_ms)

    async def open_ids(self) -> frozenset[str]:
        """The ids of the jobs that are in Redis."""
        found: Any = await self._client.smembers(keys.JOBS)
        return frozenset(found)

    async def read(self, job_id: str) -> JobState | None:
        """How far the job has come; None if it is not in Redis."""
        return (await self.read_many([job_id])).get(job_id)

    async def read_many(self, job_ids: Iterable[str]) -> Mapping[str, JobState]:
        """The same of several, by id, in one round trip; those that are not in Redis are missing."""
        asked = list(job_ids)
        async with self._client.pipeline(transaction=False) as commands:
            for job_id in asked:
                commands.hgetall(keys.job(job_id))
            answers: Any = await commands.execute()
        return job_state.decode(asked, answers)


def _flat(facts: Mapping[str, T]) -> list[str | T]:
    return list(chain.from_iterable(facts.items()))


def ruling(answer: Any) -> Ruling:
    """What the answer of a leader's script means."""
    return _RULINGS.get(int(answer), Ruling.DONE)


def _own_keys(job_id: str) -> list[str]:
    return [keys.job(job_id), keys.job_done(job_id), keys.job_outcomes(job_id), keys.job_batches(job_id)]


def _batch_words(batch: Batch) -> tuple[Word, ...]:
    count = sum(last - first + 1 for first, last in batch.chunks)
    return batch.batch_id, json.dumps(batch.chunks, separators=(",", ":")), count, len(batch.message), batch.message


def _fed(batch_id: str, text: str) -> FedBatch:
    facts = json.loads(text)
    chunks = tuple((first, last) for first, last in facts["chunks"])
    return FedBatch(batch_id=batch_id, chunks=chunks, count=facts["count"], size_bytes=facts["bytes"], at_ms=facts["at"])
