"""Work that was set aside because it killed what ran it: listed, and enqueued again when somebody says so."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import redis
import redis.asyncio

from aegis_workers.state import keys

# Redis's word for the field of an answers hash that says that an item was set aside.
_FIELD: Final = "aside:"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One text, conversation or prompt that was set aside.

    `entry_id` is the task's id, with the item's number behind it for one of a batch. `kwargs` are the arguments with which it can
    be enqueued again. `history` has what it was in flight at: `what` and, where known, `who` and `at` (epoch seconds). `at` is
    when it was set aside.
    """

    entry_id: str
    task: str
    queue: str
    kwargs: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    at: float
    custom_id: str | None = None

    @property
    def job_id(self) -> str | None:
        """The bulk job of which it is a chunk: its outcome is recorded there."""
        job_id = self.kwargs.get("job") if "chunks" in self.kwargs else None
        return job_id if isinstance(job_id, str) else None


def encode(entry: Entry) -> str:
    """The entry as it is kept."""
    return json.dumps(asdict(entry))


def put(client: redis.Redis, entry: Entry) -> None:
    """Keep the entry; one that is there already stays."""
    client.hsetnx(keys.ASIDE, entry.entry_id, encode(entry))


def read_all(client: redis.Redis) -> list[Entry]:
    """All entries, the oldest first."""
    found: Any = client.hvals(keys.ASIDE)
    return sorted((Entry(**json.loads(value)) for value in found), key=lambda entry: entry.at)


def remove(client: redis.Redis, entry_id: str) -> bool:
    """Forget the entry; False if there was none."""
    return bool(client.hdel(keys.ASIDE, entry_id))


def mark(item: int) -> str:
    """The field of a task's answers that says that this item was set aside; its value is the reason."""
    return f"{_FIELD}{item}"
