"""The scripts of bulk jobs on a real Redis, held against the model."""

import asyncio
import json
from collections.abc import Iterable
from itertools import count
from typing import Any

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from job_model import JobModel, chunks_of

from aegis_workers.outcome import Status
from aegis_workers.settings import Settings
from aegis_workers.state import connection, keys
from aegis_workers.state.job_outcomes import Kind, Outcome
from aegis_workers.state.job_totals import Totals
from aegis_workers.state.jobs import Batch, Image, Jobs, Ruling
from aegis_workers.state.leader import Leadership
from aegis_workers.state.recording import Recorder, Recording, _Report

JOB, QUEUE = "job_1", "extraction"
CHUNKS = 24
NO_BATCH = Batch(batch_id="never fed", chunks=[(0, 0)], message=b"")
CONTROLLERS, WORKERS = ("c1", "c2"), ("w1", "w2")

# Mostly the one that leads acts, with a worker that lives; the rest is what must do no harm.
LEADER = "leader"
controllers = st.sampled_from([LEADER] * 5 + list(CONTROLLERS))
workers = st.sampled_from(["w1"] * 3 + ["w2"])
which = st.integers(0, 20)
mostly_right = st.sampled_from([0] * 7 + [1])
outcomes = st.builds(
    Outcome,
    chunk=st.integers(0, CHUNKS - 1),
    kind=st.sampled_from(Kind),
    status=st.sampled_from(Status),
    body=st.binary(max_size=12),
    totals=st.builds(
        Totals, prompt_tokens=st.integers(0, 9), calls=st.dictionaries(st.sampled_from(["vllm", "ollama"]), st.integers(1, 2))
    ),
)
# Each kind of step, and how often it comes.
KINDS: dict[str, tuple[int, Any]] = {
    "lead": (1, st.tuples(st.sampled_from(CONTROLLERS))),
    "end_of_lock": (1, st.tuples()),
    "feed": (9, st.tuples(controllers, st.lists(st.integers(1, 5), max_size=3), mostly_right)),
    "refeed": (5, st.tuples(controllers, which)),
    "begin_batch": (3, st.tuples(which)),
    "record": (14, st.tuples(workers, which, st.lists(outcomes, max_size=5), st.booleans())),
    "commit": (8, st.tuples(controllers, st.integers(1, 6), mostly_right)),
    "install": (3, st.tuples(controllers, mostly_right)),
    "note": (1, st.tuples(controllers, st.sampled_from([None, "", "vllm"]), st.sampled_from([None, "", "full"]))),
    "close": (1, st.tuples(controllers)),
    "drop": (1, st.tuples(controllers)),
    "kill": (1, st.tuples(workers)),
    "enlist": (1, st.tuples(workers)),
    "wipe": (1, st.tuples()),
}
OFTEN = [kind for kind, (often, _) in KINDS.items() for _ in range(often)]
steps = st.sampled_from(OFTEN).flatmap(lambda kind: st.tuples(st.just(kind), KINDS[kind][1]))


class Play:
    """The same steps on Redis and on the model; after each both hold the same. `disk`: the outcomes collected, in order."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client
        self.model = JobModel()
        self.jobs = Jobs(client)
        self.leaderships = {name: Leadership(client, name) for name in CONTROLLERS}
        self.tokens = dict.fromkeys(CONTROLLERS, 1)
        self.recorders = {name: Recorder(client, name) for name in WORKERS}
        self.disk: list[Outcome] = []
        self.fed: list[Batch] = []
        self.names = (f"{JOB}.{number}" for number in count())

    async def begin(self) -> None:
        await self.client.flushall()
        for name in WORKERS:
            await self.step(("enlist", (name,)))
        await self.step(("lead", (CONTROLLERS[0],)))
        await self.step(("install", (CONTROLLERS[0], 0)))

    @property
    def leader(self) -> str:
        """The controller that led last."""
        return max(CONTROLLERS, key=self.tokens.__getitem__)

    async def step(self, step: tuple[str, tuple[Any, ...]]) -> None:
        what, how = step
        if how and how[0] == LEADER:
            how = (self.leader, *how[1:])
        stale = bool(how) and how[0] in CONTROLLERS and self.tokens[how[0]] != self.model.leads
        before = await self.contents() if stale else {}
        await getattr(self, what)(*how)
        if stale:
            assert await self.contents() == before, "a stale token changed something"
        await self.check()

    async def wipe(self) -> None:
        await self.client.flushall()
        self.model.wipe()

    async def enlist(self, name: str) -> None:
        await self.client.zadd(keys.ALIVE, {name: 1})
        self.model.alive.add(name)

    async def kill(self, name: str) -> None:
        await self.client.zrem(keys.ALIVE, name)
        self.model.alive.discard(name)

    async def end_of_lock(self) -> None:
        await self.client.delete(keys.CONTROLLER)
        self.model.leads = None

    async def lead(self, name: str) -> None:
        token = await self.leaderships[name].hold()
        if self.model.leads in {None, self.tokens[name]}:
            assert token is not None
            assert token == self.model.leads or token > max(self.tokens.values())
            self.tokens[name] = self.model.leads = token
        else:
            assert token is None

    def chosen(self, number: int) -> Batch:
        """A batch that was fed some time, or was meant to be, the latest for 0; or none of them."""
        return self.fed[-1 - number % len(self.fed)] if self.fed else NO_BATCH

    def batches(self, spans: Iterable[tuple[int, int]]) -> list[Batch]:
        names = ((next(self.names), span) for span in spans)
        made = [Batch(batch_id=name, chunks=[span], message=b"message of " + name.encode()) for name, span in names]
        self.fed += made
        return made

    async def feed(self, name: str, sizes: list[int], off: int) -> None:
        job = self.model.jobs.get(JOB)
        at = fed = (0 if job is None else job.fed) + off
        spans = []
        for size in sizes:
            if at < CHUNKS:
                spans.append((at, min(at + size, CHUNKS) - 1))
                at = spans[-1][1] + 1
        batches = self.batches(spans)
        found = await self.jobs.feed(self.tokens[name], JOB, batches, queue=QUEUE, fed=fed, fed_after=at)
        assert found is self.model.feed(self.tokens[name], JOB, batches, fed=fed, fed_after=at)

    async def refeed(self, name: str, number: int) -> None:
        lost = self.chosen(number)
        job = self.model.jobs.get(JOB)
        fed = 0 if job is None else job.fed
        batches = self.batches((chunk, chunk) for chunk in chunks_of(lost) if job is not None and chunk not in job.done)
        found = await self.jobs.refeed(self.tokens[name], JOB, lost.batch_id, batches, queue=QUEUE, fed=fed)
        assert found is self.model.feed(self.tokens[name], JOB, batches, fed=fed, fed_after=fed, lost=lost.batch_id)

    async def begin_batch(self, number: int) -> None:
        batch = self.chosen(number)
        asked = JOB, batch.batch_id, chunks_of(batch)
        assert await self.recorders[WORKERS[0]].begin_batch(*asked) == self.model.begin_batch(*asked)

    async def record(self, name: str, number: int, outcomes: list[Outcome], finishes: bool) -> None:  # noqa: FBT001 - a step
        """Sent as the recorder's background part does, without its wait."""
        finished = self.chosen(number).batch_id if finishes else ""
        answer = asyncio.get_running_loop().create_future()
        report = _Report(job_id=JOB, outcomes=outcomes, finished=finished, answer=answer)
        found = await self.recorders[name]._send([report])
        assert found is self.model.record(name, JOB, outcomes, finished)

    async def commit(self, name: str, number: int, off: int) -> None:
        job = self.model.jobs.get(JOB)
        collected = (0 if job is None else job.collected) + off
        part = await self.jobs.collect(JOB, collected, number)
        assert [one.number for one in part] == list(range(collected + 1, collected + 1 + len(part)))
        if not part:
            return
        items = {part[0].status: len(part)}
        totals = sum((one.totals for one in part), Totals())
        found = await self.jobs.commit(
            self.tokens[name],
            JOB,
            collected=collected,
            last=part[-1],
            size_bytes=sum(one.size_bytes for one in part),
            items=items,
            totals=totals,
        )
        assert found is self.model.commit(
            self.tokens[name], JOB, collected=collected, up_to=part[-1].number, items=items, totals=totals
        )
        if found is Ruling.DONE:
            self.disk += part

    async def install(self, name: str, off: int) -> None:
        job = self.model.jobs.get(JOB)
        survivors = [] if job is None else [one for _, one in sorted(job.numbered.items())]
        done = bytearray((CHUNKS + 7) // 8)
        for outcome in self.disk:
            done[outcome.chunk // 8] |= 0x80 >> outcome.chunk % 8
        image = Image(
            fed=0 if job is None else job.fed, collected=len(self.disk), done=bytes(done), survivors=survivors, engine="vllm"
        )
        recorded = None if job is None else job.recorded + off
        found = await self.jobs.install(self.tokens[name], JOB, image, recorded=recorded)
        assert found is self.model.install(self.tokens[name], JOB, image, recorded=recorded)

    async def note(self, name: str, engine: str | None, waits: str | None) -> None:
        found = await self.jobs.note(self.tokens[name], JOB, engine=engine, waits=waits)
        assert found is self.model.note(self.tokens[name], JOB, engine=engine, waits=waits)

    async def close(self, name: str) -> None:
        assert await self.jobs.close(self.tokens[name], JOB) is self.model.close(self.tokens[name], JOB)

    async def drop(self, name: str) -> None:
        found = await self.jobs.drop(self.tokens[name], JOB)
        assert found is self.model.drop(self.tokens[name], JOB)

    async def contents(self) -> dict[str, Any]:
        """Everything in Redis, but the lock."""
        names: Any = await self.client.keys()
        return {name: await self.client.dump(name) for name in names if not name.startswith(keys.CONTROLLER)}

    async def check(self) -> None:
        job = self.model.jobs.get(JOB)
        found = await self.jobs.read(JOB)
        assert found == (None if job is None else job.read(JOB))
        assert await self.jobs.open_ids() == self.model.jobs.keys()
        queue: Any = await self.client.lrange(QUEUE, 0, -1)
        assert [message.encode() for message in queue] == self.model.queue
        if job is None or found is None:
            assert not await self.client.exists(keys.job_done(JOB), keys.job_outcomes(JOB), keys.job_batches(JOB))
            return
        entries = await self.jobs.collect(JOB, 0, CHUNKS)
        assert [(one.number, one.chunk, one.kind, one.status, one.body, one.totals) for one in entries] == [
            (number, one.chunk, one.kind, one.status, one.body, one.totals) for number, one in sorted(job.numbered.items())
        ]
        bits: Any = await self.client.bitfield(keys.job_done(JOB)).get(f"u{CHUNKS}", 0).execute()
        assert {chunk for chunk in range(CHUNKS) if bits[0] >> (CHUNKS - 1 - chunk) & 1} == job.done
        batches = await self.jobs.batches(JOB)
        assert {one.batch_id: (one.count, one.size_bytes) for one in batches} == {
            name: (len(chunks_of(batch)), len(batch.message)) for name, batch in job.batches.items()
        }
        written = [outcome.chunk for outcome in (*self.disk, *entries)]
        assert len(written) == len(set(written)), "a chunk has two outcomes"
        assert found.collected <= found.recorded
        assert min(found.out_chunks, found.out_bytes, found.held_bytes) >= 0

    async def finish(self) -> None:
        """What a new leader would do with whatever is left: the job comes to its end, and nothing of it stays in motion."""
        await self.step(("end_of_lock", ()))
        await self.step(("lead", (CONTROLLERS[1],)))
        for name in WORKERS:
            await self.step(("enlist", (name,)))
        await self.step(("install", (CONTROLLERS[1], 0)))
        await self.step(("feed", (CONTROLLERS[1], [CHUNKS], 0)))
        job = self.model.jobs[JOB]
        left = [chunk for chunk in range(CHUNKS) if chunk not in job.done]
        await self.record_all(left, list(job.batches))
        while len(self.disk) < CHUNKS:
            await self.step(("commit", (CONTROLLERS[1], CHUNKS, 0)))
        assert sorted(outcome.chunk for outcome in self.disk) == list(range(CHUNKS))
        found = await self.jobs.read(JOB)
        assert found is not None
        assert (found.out_chunks, found.out_bytes, found.held_bytes) == (0, 0, 0)
        assert found.recorded == found.collected == CHUNKS

    async def record_all(self, chunks: list[int], batch_ids: list[str]) -> None:
        made = [Outcome(chunk=chunk, kind=Kind.LINE, status=Status.OK, body=json.dumps(chunk).encode()) for chunk in chunks]
        recorder = self.recorders[WORKERS[0]]
        running = asyncio.create_task(recorder.run())
        told = await asyncio.gather(
            recorder.record(JOB, made), *(recorder.record(JOB, [], finished=batch_id) for batch_id in batch_ids)
        )
        running.cancel()
        assert set(told) == {Recording.RECORDED}
        self.model.record(WORKERS[0], JOB, made, "")
        for batch_id in batch_ids:
            self.model.record(WORKERS[0], JOB, [], batch_id)
        await self.check()


@pytest.mark.timeout(180)
@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=10, max_size=60))
def test_whatever_happens_to_a_job_the_scripts_do_what_the_model_does(
    settings: Settings, played: list[tuple[str, tuple[Any, ...]]]
) -> None:
    async def carry_out() -> None:
        async with connection.open_async(settings) as client:
            play = Play(client)
            await play.begin()
            for step in played:
                await play.step(step)
            await play.finish()

    asyncio.run(carry_out())
