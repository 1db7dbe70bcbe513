"""The answer of one streamed chat, on its way through Redis from the worker to its reader."""

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import redis
import redis.asyncio

from aegis_workers.state import keys, scripts

# A stream outlives its last word by this much, for a reader that was slow.
TTL_S = 120.0
# A reader that has said nothing for this long is taken for dead.
READER_TTL_S = 10.0


class Hold(StrEnum):
    """What a writer learns at each append."""

    READ = "read"
    UNREAD = "unread"
    TAKEN_OVER = "taken_over"


class Writer:
    """The worker's end of a stream, for one delivery of its task: the writer of a second delivery fences the first."""

    def __init__(self, client: redis.asyncio.Redis, task_id: str) -> None:
        self._client = client
        self._keys = (keys.stream(task_id), keys.stream_writer(task_id), keys.stream_reader(task_id))
        self._token = secrets.token_hex(8)
        self._ttl_ms = str(int(TTL_S * 1000))
        self._entry = 0

    async def begin(self) -> bool:
        """Take the stream; False if an earlier delivery has already written, and then the stream is ended as interrupted."""
        return bool(await self._client.eval(scripts.BEGIN_STREAM, 2, *self._keys[:2], self._token, self._ttl_ms))

    async def write(self, text: str) -> Hold:
        """Append a piece of text; an empty one only asks whether the stream is still read.

        A piece whose append was cancelled or failed may be written again: it is seen once, whatever became of the first try.
        """
        return await self._append("text" if text else "", text)

    async def end(self, result: Mapping[str, Any]) -> Hold:
        """Append the end with the task's result, or with `status` and `error`."""
        return await self._append("end", json.dumps(result))

    async def _append(self, field: str, value: str) -> Hold:
        entry = self._entry + bool(field)
        held = await self._client.eval(scripts.APPEND_STREAM, 3, *self._keys, self._token, self._ttl_ms, str(entry), field, value)
        self._entry = entry
        return {1: Hold.READ, 0: Hold.UNREAD}.get(int(held), Hold.TAKEN_OVER)


@dataclass(frozen=True, kw_only=True)
class End:
    """The last entry of a stream."""

    result: Mapping[str, Any]


class Reader:
    """The caller's end of a stream."""

    def __init__(self, client: redis.Redis, task_id: str) -> None:
        self._client = client
        self._stream = keys.stream(task_id)
        self._presence = keys.stream_reader(task_id)
        self._position = "0"

    def present(self) -> None:
        """Say that the stream is being read; holds for `READER_TTL_S` seconds."""
        ttl_ms = int(READER_TTL_S * 1000)
        if not self._client.pexpire(self._presence, ttl_ms):  # which a Redis that has filled up meanwhile does not refuse
            self._client.set(self._presence, "1", px=ttl_ms)

    def leave(self) -> None:
        """Say that nobody reads any more: the worker closes the call."""
        self._client.delete(self._presence)

    def read(self, *, block_s: float) -> Iterator[str | End]:
        """What was appended since the last read, waiting up to `block_s` seconds for the first of it."""
        answer: Any = self._client.xread({self._stream: self._position}, block=int(block_s * 1000))
        for position, fields in _entries(answer):
            self._position = position
            yield End(result=json.loads(fields["end"])) if "end" in fields else fields["text"]


def _entries(answer: Any) -> Iterator[tuple[str, Mapping[str, str]]]:
    streams = answer.values() if isinstance(answer, dict) else (entries for _, entries in answer or ())
    for entries in streams:
        # RESP3 wraps the entries of a stream in one more list than RESP2 does.
        yield from entries[0] if entries and isinstance(entries[0], list) else entries
