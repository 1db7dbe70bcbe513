"""Jobs led step by step in this process, on a real Redis and a real folder; workers are played by whoever asks for it."""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis.asyncio

from aegis_workers.dispatch import inputs
from aegis_workers.dispatch.reading import ChunkRead
from aegis_workers.dispatch.spans import Span, SpanChunk
from aegis_workers.engines.base import Readiness
from aegis_workers.extraction.merging import ChunkResult
from aegis_workers.jobs import message, submission
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.overseer import Overseer
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms
from aegis_workers.outcome import Problem, Status
from aegis_workers.routing import Engine, Mode
from aegis_workers.settings import Settings
from aegis_workers.state import engine_status, job_outcomes, job_scripts, keys
from aegis_workers.state.engine_status import ReplicaStatus
from aegis_workers.state.job_outcomes import Outcome
from aegis_workers.state.job_state import JobState
from aegis_workers.state.jobs import Jobs
from aegis_workers.state.leader import Leadership

URL = "http://127.0.0.1:1"
GOOD: dict[str, Any] = {"entities": [], "relations": []}


class Crash(BaseException):
    """The leader's death at a chosen point."""


def spool_settings(settings: Settings, folder: Path, **more: Any) -> Settings:
    """Settings with a spool, and vLLM alone."""
    chosen = {"data_dir": folder, "llm_engine_mode": Mode.VLLM, "vllm_model": "sim", "vllm_url": (URL,)}
    return settings.model_copy(update=chosen | more)


async def ready_place(client: redis.asyncio.Redis, settings: Settings, folder: Path) -> "Place":
    """Jobs that are led in this process, in a window of 64 calls, with vLLM ready."""
    place = Place(client, spool_settings(settings, folder, window_calls=64))
    await place.engine_is(Readiness.READY)
    return place


@dataclass
class Place:
    """`asked` counts the calls of each chunk, by job."""

    client: redis.asyncio.Redis
    settings: Settings
    overseer: Overseer | None = None
    asked: dict[str, list[int]] = field(default_factory=dict)

    async def engine_is(self, state: Readiness, reason: str = "", *, engine: Engine = Engine.VLLM) -> None:
        """What workers say of an engine."""
        await engine_status.report(self.client, engine, [ReplicaStatus(url=URL, state=state, reason=reason)], complete=True)

    async def lead(self) -> Overseer:
        """A new leader, whatever became of the last one."""
        await self.client.delete(keys.CONTROLLER)
        token = await Leadership(self.client, "test").hold()
        assert token is not None
        await self.client.persist(keys.CONTROLLER)  # nobody holds on to it here
        self.overseer = Overseer(self.client, self.settings, token)
        return self.overseer

    def submit(self, items: Iterable[Any], **terms: Any) -> JobFolder:
        """A job of these items."""
        return submission.write(Spool(self.settings.data_dir), Items(items=items), Terms(**terms), self.settings).job

    async def state(self, job: JobFolder) -> JobState | None:
        """What Redis knows of it."""
        return await Jobs(self.client).read(job.id)

    async def work(self, *, most: int = 10**9, status: Status = Status.OK, backwards: bool = False) -> int:
        """Carry out up to so many messages as a worker would; how many there were."""
        done = 0
        while done < most and (raw := await self._next()) is not None:
            envelope = json.loads(raw)
            _, kwargs, _ = json.loads(base64.b64decode(envelope["body"]))
            spans = [Span.model_validate(chunk) for chunk in kwargs["chunks"]]
            await self._record(kwargs["job"], envelope["headers"]["id"], list(reversed(spans)) if backwards else spans, status)
            done += 1
        return done

    async def lose(self, messages: int) -> None:
        """Finish so many messages without an outcome of theirs, as nobody should."""
        for _ in range(messages):
            envelope = json.loads(await self._next() or b"")
            job_id = json.loads(base64.b64decode(envelope["body"]))[1]["job"]
            names = [keys.ALIVE, keys.job(job_id), keys.job_done(job_id), keys.job_outcomes(job_id), keys.job_batches(job_id)]
            await self.client.eval(job_scripts.RECORD, 5, *names, "", "1", envelope["headers"]["id"])

    async def _next(self) -> bytes | None:
        command: Any = self.client.execute_command
        found: bytes | None = await command("RPOP", message.QUEUE, NEVER_DECODE=True)
        return found

    async def _record(self, job_id: str, batch_id: str, spans: list[Span], status: Status) -> None:
        names = [keys.job(job_id), keys.job_done(job_id), keys.job_batches(job_id)]
        state, _, known, *bits = await self.client.eval(
            job_scripts.BEGIN_BATCH, 3, *names, batch_id, *(str(span.n) for span in spans)
        )
        if state != "open" or not known:
            return
        for place, (span, bit) in enumerate(zip(spans, bits, strict=True)):
            finished = [batch_id] if place == len(spans) - 1 else []
            outcomes = [] if bit else [self.outcome(span, status)]
            if not bit:
                self.asked.setdefault(job_id, []).append(span.n)
            words = [word for outcome in outcomes for word in job_outcomes.words(outcome)]
            names = [keys.ALIVE, keys.job(job_id), keys.job_done(job_id), keys.job_outcomes(job_id), keys.job_batches(job_id)]
            await self.client.eval(job_scripts.RECORD, 5, *names, "", str(len(finished)), *finished, *words)

    def outcome(self, span: Span, status: Status) -> Outcome:
        """What a worker records of a chunk that was called once."""
        problem = None if status is Status.OK else Problem(error_class="item-fatal", message="HTTP 404")
        data = {**GOOD, "entities": [_entity(span)]} if status is Status.OK else None
        result = ChunkResult(chunk=span.chunk(), status=status, data=data, problem=problem)
        read = ChunkRead(result=result, engine=Engine.VLLM, mode=Mode.VLLM, attempts=1, prompt_tokens=10, completion_tokens=5)
        return SpanChunk(span=span, plan=inputs.extraction_plan(None, None, self.settings))._end(read, None).outcome


def _entity(span: Span) -> dict[str, Any]:
    name = f"Chunk {span.n}"
    return {"name": name, "type": "thing", "description": name, "confidence": 1.0, "mentions": []}
