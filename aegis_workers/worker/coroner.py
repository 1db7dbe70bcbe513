"""What becomes of a message whose worker died: another delivery, or its place among what was set aside."""

import asyncio
import inspect
import json
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import redis.asyncio
import structlog
from celery import current_app

from aegis_workers import telemetry
from aegis_workers.errors import SetAside
from aegis_workers.state import aside, envelope, keys, suspects
from aegis_workers.state.answers import TTL_S
from aegis_workers.state.envelope import Death
from aegis_workers.state.held import End, Settlement
from aegis_workers.telemetry import Killed, PoisonFound
from aegis_workers.worker import poison
from aegis_workers.worker.poison import Work

log = structlog.get_logger(__name__)

# What was at work alone when its worker died for the third time is what kills workers.
DEATHS_OF_POISON = 3


class Coroner:
    """Looks at each message of a dead worker."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    async def verdict(self, raw: bytes, death: Death) -> Settlement:
        """What to do with the message: it goes back with `death` noted, unless it was set aside as a whole.

        Of a batch only the item that was at work is set aside, and the rest goes back. What is done here may be done again by
        another reaper: each step of it counts once.
        """
        again = Settlement(raw=raw, end=End.FRONT, again=envelope.again(raw, death))
        suspect = await suspects.of_worker(self._client, death.worker)
        work = None if suspect is None else _work(raw, suspect.task_id)
        if suspect is None or work is None:
            return again
        history = _history(again.again)
        if len(history) < DEATHS_OF_POISON:
            await suspects.release(self._client, suspect)
            return again
        entry = poison.entry(work, suspect.item, history)
        reason = f"alone at the {len(history)}rd death of a worker, and set aside: aegis-workers aside list"
        if await self._client.hsetnx(keys.ASIDE, entry.entry_id, aside.encode(entry)):
            telemetry.tell(PoisonFound(killed=Killed.WORKER))
        log.error("message.set_aside", id=entry.entry_id, task=entry.task, deaths=len(history))
        if work.items:
            answers = keys.answers(work.task_id)
            await self._client.hset(answers, aside.mark(suspect.item), reason)
            await self._client.pexpire(answers, int(TTL_S * 1000))
        else:
            await asyncio.to_thread(current_app.backend.mark_as_failure, work.task_id, SetAside(reason))
        await suspects.release(self._client, suspect)
        return again if work.items else Settlement(raw=raw)


def _history(raw: bytes) -> list[Mapping[str, Any]]:
    found = envelope.read(raw) or {}
    deaths = envelope.deaths(found.get("headers") or {})
    return [{"what": "its worker died", "who": death.get("worker"), "at": death.get("at")} for death in deaths]


def _work(raw: bytes, task_id: str) -> Work | None:
    """The task of this id, if the message carries it."""
    try:
        found = json.loads(raw)
        headers = found["headers"]
        if headers["id"] != task_id:
            return None
        args, kwargs, *_ = json.loads(b64decode(found["body"]))
        run = current_app.tasks[headers["task"]].run
        bound = inspect.signature(run).bind(*args, **kwargs)
    except (LookupError, TypeError, ValueError):
        return None
    queue = str(found["properties"]["delivery_info"]["routing_key"])
    return Work(task_id=task_id, task=str(headers["task"]), queue=queue, kwargs=dict(bound.arguments))
