"""Chat and generation: one call, whole or as a stream that its reader can leave at any time."""

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import aclosing, suppress
from typing import Any

from redis.exceptions import RedisError

from aegis_workers.completion import Completion, CompletionRequest, Finish
from aegis_workers.dispatch import running
from aegis_workers.dispatch.calls import CallOutcome, Calls, failure
from aegis_workers.dispatch.delivery import Delivery
from aegis_workers.dispatch.inputs import Conversation
from aegis_workers.engines.base import EngineClient
from aegis_workers.errors import AegisError, CallCancelled, CallRevoked, PutBack, StreamInterrupted
from aegis_workers.outcome import Status
from aegis_workers.routing import TaskType
from aegis_workers.state.streams import Hold, Writer

# Tokens that come within this time travel together.
COALESCE_S = 0.03
# How often a stream that has nothing to say asks whether it is still read.
ASK_READER_S = 1.0


async def answer(calls: Calls, task_type: TaskType, conversation: Conversation, delivery: Delivery) -> dict[str, Any]:
    """The result of a chat or a generation. Raises `CallFailed` or `DeadlineExceeded`."""
    async with calls.within(conversation.deadline_s, task_type), calls.item(delivery):
        outcome = await calls.run(task_type, delivery.call(), _request(conversation), _judge)
    return _result(outcome)


async def stream(calls: Calls, conversation: Conversation, delivery: Delivery, writer: Writer) -> dict[str, Any]:
    """The same, with the text written to `writer` as it is generated.

    Falls back to another engine only before the first piece. Raises `StreamInterrupted` when the answer breaks off after it, or
    when an earlier delivery of the task has already written, and `CallCancelled` when nobody reads any more; the engine's
    request is closed in any case.
    """
    if not await writer.begin():
        raise StreamInterrupted("an earlier delivery of this chat had already answered in part: ask again")
    pieces = _Pieces(writer)
    try:
        async with calls.within(conversation.deadline_s, TaskType.CHAT), calls.item(delivery):
            return await _while_read(calls, conversation, delivery, pieces)
    except (AegisError, asyncio.CancelledError) as error:
        await asyncio.shield(pieces.break_off(running.cause(error)))
        raise


async def _while_read(calls: Calls, conversation: Conversation, delivery: Delivery, pieces: "_Pieces") -> dict[str, Any]:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(pieces.carry())
            try:
                outcome = await calls.run(
                    TaskType.CHAT, delivery.call(), _request(conversation), _judge, ask=pieces.ask, has_begun=pieces.have_begun
                )
            finally:
                pieces.stop()
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    result = _result(outcome)
    await pieces.finish(result)
    return result


class _Pieces:
    """The way of an answer's pieces from the engine to the stream."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._buffer: list[str] = []
        self._unsent = ""
        self._arrived = asyncio.Event()
        self._writing = asyncio.Lock()
        self._begun = False
        self._stopped = False

    async def ask(self, client: EngineClient, request: CompletionRequest) -> Completion:
        """Asks for a streamed answer."""
        async with aclosing(client.stream(request)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Completion):
                    return piece
                self._begun = True
                self._buffer.append(piece)
                self._arrived.set()
        raise AssertionError("a client's stream ends with its completion")

    def have_begun(self) -> bool:
        """Whether a piece has come: then no engine may begin anew."""
        return self._begun

    async def carry(self) -> None:
        """Writes what has come, and watches that somebody reads it."""
        while not self._stopped:
            with suppress(TimeoutError):
                async with asyncio.timeout(ASK_READER_S):
                    await self._arrived.wait()
            self._arrived.clear()
            if await self._write() is not Hold.READ:
                raise CallCancelled("nobody reads this chat any more")
            await asyncio.sleep(COALESCE_S)

    def stop(self) -> None:
        """Ends `carry` after its present round. A cancellation could be lost: redis-py's connections can swallow one."""
        self._stopped = True
        self._arrived.set()

    async def finish(self, result: Mapping[str, Any]) -> None:
        """Writes the rest, then the end with the task's result."""
        await self._write_rest()
        await _taken(self._writer.end(result))

    async def break_off(self, error: BaseException) -> None:
        """Ends the stream for its reader, unless the task will run again and nothing has been written yet."""
        if not self._begun and isinstance(error, PutBack | asyncio.CancelledError):
            return
        status = "interrupted" if self._begun else Status.FAILED.value
        if isinstance(error, CallRevoked):
            status = Status.CANCELLED.value
        with suppress(StreamInterrupted):  # the reader of a Redis that is away learns nothing in any case
            await self._write_rest()
            await _taken(self._writer.end({"status": status, "error": str(error) or "the worker stopped"}))

    async def _write_rest(self) -> None:
        while self._unsent or self._buffer:
            await self._write()

    async def _write(self) -> Hold:
        """Sends what has come. What was on its way when this was cancelled is sent again, alone, so that it is seen once."""
        async with self._writing:
            if not self._unsent:
                self._unsent, self._buffer = "".join(self._buffer), []
            hold = await _taken(self._writer.write(self._unsent))
            self._unsent = ""
            return hold


async def _taken(append: Awaitable[Hold]) -> Hold:
    """What Redis says to an append; where it says nothing, the answer has a hole and is over."""
    try:
        return await append
    except RedisError as error:
        raise StreamInterrupted(f"Redis did not take a piece of the answer ({error!r}): ask again") from None


def _request(conversation: Conversation) -> CompletionRequest:
    return CompletionRequest(messages=conversation.messages, sampling=conversation.sampling)


def _judge(completion: Completion) -> Status:
    if completion.finish is Finish.LENGTH:
        return Status.TRUNCATED
    return Status.OK if completion.text.strip() else Status.EMPTY


def _result(outcome: CallOutcome) -> dict[str, Any]:
    completion = outcome.completion
    if completion is None:
        raise failure(outcome.problem)
    return {
        "status": outcome.status.value,
        "text": completion.text,
        "reasoning": completion.reasoning,
        "finish": completion.finish.value,
        "engine": outcome.engine.value,
        "mode": outcome.mode.value,
        "reason": outcome.reason,
        "attempts": outcome.attempts,
        "usage": {"prompt_tokens": completion.prompt_tokens, "completion_tokens": completion.completion_tokens},
    }
