"""What an application calls beside the tasks: streamed chat, and the engine mode."""

import threading
import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from redis.exceptions import RedisError

from aegis_workers import settings as settings_module
from aegis_workers.dispatch import inputs
from aegis_workers.errors import CallCancelled, CallFailed, DeadlineExceeded, StreamInterrupted
from aegis_workers.outcome import Status
from aegis_workers.routing import Mode
from aegis_workers.state import connection
from aegis_workers.state import mode as modes
from aegis_workers.state.streams import READER_TTL_S, End, Reader
from aegis_workers.state.switches import Source
from aegis_workers.tasks import chat

# How long one read waits for text before the reader looks whether the task has failed without a word.
_READ_S = 1.0
# The worker ends a stream at the task's deadline; the reader waits this much longer for that end to arrive.
_MARGIN_S = 10.0


def chat_stream(
    messages: Sequence[Mapping[str, str]], options: Mapping[str, Any] | None = None, *, task_id: str | None = None
) -> Generator[str, None, None]:
    """The answer to a conversation as it is generated, while the call runs in a worker.

    Closing the generator, or the death of this process, closes the call at the engine; with a `task_id` of its own choice
    another process can do so too, by `app.control.terminate(task_id)`. Raises `InvalidInput` for bad input, `RedisUnavailable`
    where Redis does not answer, `RedisFull` where it takes nothing in, `CallFailed` where no engine answered, `CallCancelled`
    when the task was revoked, `DeadlineExceeded` when time is up and `StreamInterrupted` when the answer broke off: the text so
    far is then all there is.
    """
    settings = settings_module.load()
    task_id = task_id or str(uuid.uuid4())
    deadline_s = inputs.conversation(messages, options, settings).deadline_s
    with connection.explained(settings), connection.open_sync(settings) as client:
        reader = Reader(client, task_id)
        with _present(reader):
            result = chat.apply_async((messages, options), {"stream": True}, task_id=task_id)
            yield from _follow(reader, result, time.monotonic() + deadline_s + _MARGIN_S)


def _follow(reader: Reader, result: Any, give_up_at: float) -> Iterator[str]:
    while time.monotonic() < give_up_at:
        silent = True
        for entry in reader.read(block_s=_READ_S):
            silent = False
            if isinstance(entry, End):
                _raise_unless_complete(entry.result)
                return
            yield entry
        if silent:
            _raise_if_over(result)
    raise DeadlineExceeded("no worker ended this chat in time: is one running for the queue chat?")


def _raise_if_over(result: Any) -> None:
    """A task can end before it has written a word to its stream."""
    match result.state:
        case "FAILURE":
            result.get()
        case "REVOKED":
            raise CallCancelled("this chat was revoked before its answer began")


def _raise_unless_complete(end: Mapping[str, Any]) -> None:
    if end["status"] == "interrupted":
        raise StreamInterrupted(end.get("error") or "the worker that answered went away: ask again")
    if end["status"] == Status.CANCELLED.value:
        raise CallCancelled(end["error"])
    if "text" not in end:
        raise CallFailed(end["error"])


@contextmanager
def _present(reader: Reader) -> Iterator[None]:
    """Says that the stream is read for as long as the block runs, however slowly its text is taken."""
    left = threading.Event()

    def say() -> None:
        while not left.wait(READER_TTL_S / 3):
            with suppress(RedisError):  # the next time may be soon enough, and the reading itself meets it as well
                reader.present()

    reader.present()
    thread = threading.Thread(target=say, name="aegis-stream-reader", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
        reader.leave()


def get_mode() -> Mode:
    """The engine mode in force. Raises `RedisUnavailable`."""
    settings = settings_module.load()
    with connection.explained(settings), connection.open_sync(settings) as client:
        return modes.read(client, settings.llm_engine_mode).mode


def set_mode(mode: Mode | str) -> str | None:
    """Switch the engine mode; returns what the key held before. Raises `InvalidInput` and `RedisUnavailable`."""
    chosen = modes.parse(mode)
    settings = settings_module.load()
    with connection.explained(settings), connection.open_sync(settings) as client:
        return modes.write(client, chosen, Source.PYTHON)
