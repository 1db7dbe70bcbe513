"""What can go wrong, each with what the caller should do about it.

Messages name the cause and the cure. They never hold a caller's text: they travel into logs and events. What an engine said
goes into `EngineError.words` only, which results carry and logs do not.
"""

from enum import StrEnum


class ErrorClass(StrEnum):
    """How a failed engine call is handled; see the table "Outcomes and errors" of the README."""

    ITEM_FATAL = "item-fatal"
    CONTENT = "content"
    TRANSIENT = "transient"
    ENGINE_FATAL = "engine-fatal"
    POISON = "poison"


class AegisError(Exception):
    """Anything this package raises on purpose."""


class ConfigurationError(AegisError):
    """A setting is missing or has a value that cannot work."""


class InvalidInput(AegisError):
    """A caller's text, schema, messages or options cannot be processed as they are; sending them again will not help."""


class DeadlineExceeded(AegisError):
    """The call's own deadline passed, waiting included."""


class CallCancelled(AegisError):
    """The call was ended by its caller."""


class CallRevoked(CallCancelled):
    """The call's task was revoked; its producer sees Celery's own `TaskRevokedError`. `terminated`: an engine may have had it."""

    def __init__(self, message: str, *, terminated: bool = False) -> None:
        super().__init__(message)
        self.terminated = terminated


class PutBack(AegisError):
    """The call has no outcome here: its message goes back to its queue. No caller ever sees it."""


class WorkerStopping(PutBack):
    """The worker is stopping: the call is closed and its message goes back to the queue."""


class WaitedTooLong(PutBack):
    """The call waited so long that its message goes back to the queue; the message says for what it waited."""


class RedisUnavailable(AegisError):
    """Redis does not answer, or refused a command; the message names its address and what to check."""


class RedisFull(RedisUnavailable):
    """Redis answers and takes nothing in: all of its memory is used, and nothing was enqueued or changed."""


class SpoolUnavailable(AegisError):
    """The folder of the jobs cannot be read or written; the message names it and what the system said."""


class SpoolFull(SpoolUnavailable):
    """The file system of the jobs' folder takes nothing in; what was being written is removed again."""


class AdminUnavailable(AegisError):
    """The admin API of the jobs' host does not answer, or not as one of this version does; the message names its address."""


class DriverFailed(AegisError):
    """An engine could not be started, or told to give its memory back; the message says why."""


class UnknownJob(AegisError):
    """There is no job of this id: it never was, or it was deleted."""


class NotPossible(AegisError):
    """What was asked of a job cannot be done in the state that it is in; the message says what can."""


class CallFailed(AegisError):
    """A single task's call ended without a usable answer."""


class SetAside(CallFailed):
    """A call that seems to kill what runs it; it is kept apart from the others until somebody looks at it."""


class StreamInterrupted(AegisError):
    """A chat stream ended before its answer was complete; the text so far is all there will be."""


def is_client_error(status: int | None) -> bool:
    """Whether an HTTP status says that the request is at fault."""
    return status is not None and 400 <= status < 500  # noqa: PLR2004 - the borders of HTTP's classes


class EngineError(AegisError):
    """An engine did not give a complete answer.

    `words` is what the engine itself said, which may echo the prompt: it belongs in results, never in a log. `status` is the
    HTTP status of its answer, if there was one.
    """

    error_class: ErrorClass

    def __init__(self, message: str, *, words: str = "", retry_after_s: float | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.words = words
        self.retry_after_s = retry_after_s
        self.status = status

    @property
    def blames_engine(self) -> bool:
        """Whether it counts against the replica's breaker: not where the engine answered that it does not want this request."""
        return self.error_class in {ErrorClass.TRANSIENT, ErrorClass.ENGINE_FATAL} and not is_client_error(self.status)


class RequestRefused(EngineError):
    """The engine will never serve this request: 400, 404, 413, 422, a prompt that does not fit, wrong credentials."""

    error_class = ErrorClass.ITEM_FATAL


class EngineBusy(EngineError):
    """The engine could not serve the request now: timeout, 5xx, 503, 429."""

    error_class = ErrorClass.TRANSIENT


class EngineLost(EngineError):
    """The engine went away: connection lost, `abort`, a stream without its end, a server that is shutting down.

    `crashed`: the call that was in flight may be what broke it. `down`: the server serves nobody now, as this one call tells; one
    connection that was lost does not tell it, and an Ollama whose model process died starts another for the next call.
    """

    error_class = ErrorClass.ENGINE_FATAL
    crashed = True
    down = False


class EngineDying(EngineLost):
    """The server said that its engine process died: it answers for a moment yet, and then it ends."""

    down = True


class EngineUnreachable(EngineLost):
    """No connection could be made: nobody listens there. Nothing was sent."""

    crashed = False
    down = True


class EngineReleased(EngineLost):
    """The call was closed because the engine is to give its memory back. That says nothing of the engine, nor of the call."""

    crashed = False

    @property
    def blames_engine(self) -> bool:
        """See `EngineError`."""
        return False


class EngineWithdrew(EngineLost):
    """The engine broke the call off in an orderly way: it was told to stop, to sleep, or to load something else."""

    crashed = False
    down = True
