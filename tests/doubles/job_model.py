"""A bulk job in Redis as it should be: what the scripts of `state.jobs` and `state.recording` are held against."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from aegis_workers.outcome import Status
from aegis_workers.state import job_totals
from aegis_workers.state.job_outcomes import Outcome
from aegis_workers.state.job_state import JobState, State
from aegis_workers.state.job_totals import Totals
from aegis_workers.state.jobs import Batch, Image, Ruling
from aegis_workers.state.recording import BatchStart, Recording


def size_bytes(outcomes: Iterable[Outcome]) -> int:
    return sum(len(outcome.body) + len(job_totals.encode(outcome.totals)) for outcome in outcomes)


def chunks_of(batch: Batch) -> list[int]:
    return [chunk for first, last in batch.chunks for chunk in range(first, last + 1)]


@dataclass
class Job:
    """One job. `numbered`: its outcomes that are not collected, by number."""

    state: State = State.OPEN
    recorded: int = 0
    collected: int = 0
    doubled: int = 0
    fed: int = 0
    committed_by: int = 0
    engine: str | None = None
    waits: str | None = None
    items: dict[Status, int] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    done: set[int] = field(default_factory=set)
    numbered: dict[int, Outcome] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)

    def write(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.chunk in self.done:
                self.doubled += 1
                continue
            self.recorded += 1
            self.done.add(outcome.chunk)
            self.numbered[self.recorded] = outcome

    def read(self, job_id: str) -> JobState:
        return JobState(
            job_id=job_id,
            state=self.state,
            recorded=self.recorded,
            collected=self.collected,
            doubled=self.doubled,
            fed=self.fed,
            out_chunks=sum(len(chunks_of(batch)) for batch in self.batches.values()),
            out_bytes=sum(len(batch.message) for batch in self.batches.values()),
            held_bytes=size_bytes(self.numbered.values()),
            committed_by=self.committed_by,
            engine=self.engine,
            waits=self.waits,
            items=self.items,
            totals=self.totals,
        )


@dataclass
class JobModel:
    """What Redis holds. `queue`: the messages, the next one last."""

    leads: int | None = None
    alive: set[str] = field(default_factory=set)
    jobs: dict[str, Job] = field(default_factory=dict)
    queue: list[bytes] = field(default_factory=list)

    def wipe(self) -> None:
        self.leads, self.alive, self.jobs, self.queue = None, set(), {}, []

    def feed(self, token: int, job_id: str, batches: Sequence[Batch], *, fed: int, fed_after: int, lost: str = "") -> Ruling:
        job = self.jobs.get(job_id)
        if token != self.leads:
            return Ruling.NOT_LEADER
        if job is None:
            return Ruling.GONE
        if job.state is not State.OPEN:
            return Ruling.CLOSING
        if job.fed != fed or (lost and lost not in job.batches):
            return Ruling.MOVED
        job.batches.update({batch.batch_id: batch for batch in batches})
        job.batches.pop(lost, None)
        job.fed = fed_after
        self.queue[:0] = [batch.message for batch in reversed(batches)]
        return Ruling.DONE

    def begin_batch(self, job_id: str, batch_id: str, chunks: Sequence[int]) -> BatchStart:
        job = self.jobs.get(job_id)
        if job is None:
            return BatchStart(state=None, engine=None, recorded=frozenset(), known=False)
        recorded = job.done & set(chunks)
        return BatchStart(state=job.state, engine=job.engine, recorded=frozenset(recorded), known=batch_id in job.batches)

    def record(self, worker: str, job_id: str, outcomes: Sequence[Outcome], finished: str) -> Recording:
        job = self.jobs.get(job_id)
        if worker not in self.alive:
            return Recording.DEAD
        if job is None:
            return Recording.GONE
        job.batches.pop(finished, None)
        if job.state is State.CLOSING:
            return Recording.CLOSING
        job.write(outcomes)
        return Recording.RECORDED

    def commit(
        self, token: int, job_id: str, *, collected: int, up_to: int, items: Mapping[Status, int], totals: Totals
    ) -> Ruling:
        job = self.jobs.get(job_id)
        if token != self.leads:
            return Ruling.NOT_LEADER
        if job is None:
            return Ruling.GONE
        if job.collected != collected:
            return Ruling.MOVED
        job.collected, job.committed_by = up_to, token
        job.numbered = {number: outcome for number, outcome in job.numbered.items() if number > up_to}
        job.items = {status: job.items.get(status, 0) + items.get(status, 0) for status in job.items.keys() | items.keys()}
        job.totals += totals
        return Ruling.DONE

    def install(self, token: int, job_id: str, image: Image, *, recorded: int | None) -> Ruling:
        before = self.jobs.get(job_id)
        if token != self.leads:
            return Ruling.NOT_LEADER
        if recorded != (None if before is None else before.recorded):
            return Ruling.MOVED
        made = Job(
            recorded=image.collected,
            collected=image.collected,
            doubled=0 if before is None else before.doubled,
            fed=image.fed,
            engine=image.engine,
            items=dict(image.items),
            totals=image.totals,
            done={chunk for chunk in range(8 * len(image.done)) if image.done[chunk // 8] & (0x80 >> chunk % 8)},
            batches={} if before is None else before.batches,
        )
        made.write(image.survivors)
        self.jobs[job_id] = made
        return Ruling.DONE

    def note(self, token: int, job_id: str, *, engine: str | None, waits: str | None) -> Ruling:
        job = self.jobs.get(job_id)
        if token != self.leads or job is None:
            return Ruling.NOT_LEADER if token != self.leads else Ruling.GONE
        job.engine = job.engine if engine is None else engine or None
        job.waits = job.waits if waits is None else waits or None
        return Ruling.DONE

    def close(self, token: int, job_id: str) -> Ruling:
        job = self.jobs.get(job_id)
        if token != self.leads or job is None:
            return Ruling.NOT_LEADER if token != self.leads else Ruling.GONE
        job.state = State.CLOSING
        return Ruling.DONE

    def drop(self, token: int, job_id: str) -> Ruling:
        if token != self.leads:
            return Ruling.NOT_LEADER
        self.jobs.pop(job_id, None)
        return Ruling.DONE
