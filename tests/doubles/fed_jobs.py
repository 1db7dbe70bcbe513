"""A leader for a test: it opens a bulk job in Redis and feeds batches of chunks to the workers, as the controller does."""

import asyncio
import base64
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import redis.asyncio

from aegis_workers.settings import Settings
from aegis_workers.state import connection, keys
from aegis_workers.state.job_outcomes import Recorded
from aegis_workers.state.job_state import JobState
from aegis_workers.state.jobs import Batch, Image, Jobs, Ruling
from aegis_workers.state.leader import Leadership

T = TypeVar("T")

QUEUE = "extraction"
TASK = "aegis.read_chunks"


def span(number: int, text: str, *, index: int = 0, of: int = 1, start: int = 0, **more: Any) -> dict[str, Any]:
    """A chunk of a text as it travels."""
    end = start + len(text)
    named = {"custom_id": f"item {number}", **more}
    return {"n": number, "item": number, "of": of, "index": index, "start": start, "end": end, "text": text, **named}


def request(number: int, body: Any) -> dict[str, Any]:
    """A completion request as it travels."""
    return {"n": number, "item": number, "of": 1, "custom_id": f"item {number}", "body": body}


def arguments(job_id: str, chunks: Sequence[Mapping[str, Any]], **fields: Any) -> dict[str, Any]:
    """The arguments of the task that reads these chunks."""
    kind = "completions" if "body" in chunks[0] else "extraction"
    plain = {"schema": None, "options": None, "engine": None, "expires_at": time.time() + 3600}
    return {"version": 1, "job": job_id, "kind": kind, "chunks": list(chunks), **plain, **fields}


def message(task_id: str, kwargs: Mapping[str, Any]) -> bytes:
    """The message as it lies in the queue."""
    body = base64.b64encode(json.dumps([[], kwargs, {}]).encode()).decode()
    headers = {"lang": "py", "task": TASK, "id": task_id, "root_id": task_id, "retries": 0, "ignore_result": True, "eta": None}
    info = {"exchange": QUEUE, "routing_key": QUEUE}
    properties = {"correlation_id": task_id, "delivery_info": info, "delivery_tag": str(uuid.uuid4()), "body_encoding": "base64"}
    form = {"content-encoding": "utf-8", "content-type": "application/json"}
    return json.dumps({"body": body, "headers": headers, "properties": properties, **form}).encode()


class FedJob:
    """A job of which the test is the leader."""

    def __init__(self, settings: Settings, job_id: str = "job_000000000000000000000001") -> None:
        self._settings = settings
        self.job_id = job_id
        self.token = 0
        self.fed = 0
        self.batch_ids: list[str] = []

    def open(self) -> "FedJob":
        """The job is in Redis and takes outcomes in."""

        async def begin(client: redis.asyncio.Redis) -> None:
            await self._lead(client)
            assert await Jobs(client).install(self.token, self.job_id, Image(done=bytes(1000)), recorded=None) is Ruling.DONE

        self._run(begin)
        return self

    def feed(self, chunks: Sequence[Mapping[str, Any]], *, at_once: int = 32, **fields: Any) -> None:
        """Enqueue the chunks, whose numbers go on from those of before."""
        batches = list(self._batches(chunks, at_once, fields))

        async def enqueue(client: redis.asyncio.Redis) -> Ruling:
            await self._lead(client)
            after = self.fed + len(chunks)
            return await Jobs(client).feed(self.token, self.job_id, batches, queue=QUEUE, fed=self.fed, fed_after=after)

        assert self._run(enqueue) is Ruling.DONE
        self.fed += len(chunks)

    def _batches(self, chunks: Sequence[Mapping[str, Any]], at_once: int, fields: Mapping[str, Any]) -> Iterator[Batch]:
        for first in range(0, len(chunks), at_once):
            part = chunks[first : first + at_once]
            batch_id = f"{self.job_id}.{uuid.uuid4().hex}"
            self.batch_ids.append(batch_id)
            raw = message(batch_id, arguments(self.job_id, part, **fields))
            yield Batch(batch_id=batch_id, chunks=[(part[0]["n"], part[-1]["n"])], message=raw)

    @property
    def state(self) -> JobState:
        """How far it has come."""
        found = self._run(lambda client: Jobs(client).read(self.job_id))
        assert found is not None
        return found

    @property
    def outcomes(self) -> list[Recorded]:
        """What is recorded, in that order."""
        return self._run(lambda client: Jobs(client).collect(self.job_id, 0, 100_000))

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What is recorded, by the numbers of the chunks."""
        return [json.loads(outcome.body) for outcome in sorted(self.outcomes, key=lambda one: one.chunk)]

    @property
    def is_done(self) -> bool:
        """Whether no batch is under way any more."""
        return self.state.out_chunks == 0

    def cancel(self) -> None:
        """As the controller cancels a job: it takes nothing in any more, and its calls are closed."""

        async def close(client: redis.asyncio.Redis) -> None:
            await self._lead(client)
            jobs = Jobs(client)
            await jobs.close(self.token, self.job_id)
            await jobs.cancel_batches(self.job_id)

        self._run(close)

    async def _lead(self, client: redis.asyncio.Redis) -> None:
        """The lock lasts for seconds; nobody else wants it."""
        await client.delete(keys.CONTROLLER)
        self.token = await Leadership(client, "test").hold() or 0

    def _run(self, work: Callable[[redis.asyncio.Redis], Awaitable[T]]) -> T:
        async def with_client() -> T:
            async with connection.open_async(self._settings) as client:
                return await work(client)

        return asyncio.run(with_client())
