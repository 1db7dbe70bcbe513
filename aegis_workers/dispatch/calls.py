"""One call from the task boundary to its outcome: admit, ask, judge, and again where that can help."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from aegis_workers import telemetry
from aegis_workers.completion import Completion, CompletionRequest
from aegis_workers.dispatch import attempts, running
from aegis_workers.dispatch.admission import Admission
from aegis_workers.dispatch.attempts import Again, Done, Tally
from aegis_workers.dispatch.delivery import CallId, Delivery
from aegis_workers.dispatch.lines import Admitted
from aegis_workers.dispatch.throughput import Throughput
from aegis_workers.engines.base import EngineClient
from aegis_workers.errors import (
    CallFailed,
    DeadlineExceeded,
    EngineBusy,
    EngineError,
    EngineLost,
    EngineReleased,
    ErrorClass,
    SetAside,
    StreamInterrupted,
)
from aegis_workers.outcome import Problem, Status
from aegis_workers.routing import Engine, Mode, TaskType
from aegis_workers.state.slots import Ended
from aegis_workers.telemetry import AttemptEnded, CallFinished, Killed, PoisonFound

log = structlog.get_logger(__name__)

Ask = Callable[[EngineClient, CompletionRequest], Awaitable[Completion]]
Judge = Callable[[Completion], Status]
ReportLost = Callable[[EngineClient, EngineLost], Awaitable[None]]

_USABLE = frozenset({Status.OK, Status.EMPTY})
# A re-ask that changes nothing would get the same answer from an engine that draws none at random.
_REASK_TEMPERATURE_STEP = 0.3

# By call of the task at hand: what it waits for beside its turn, in words. Said when the task's deadline passes.
_awaited: ContextVar[dict[object, str]] = ContextVar("awaited")


@dataclass(frozen=True, kw_only=True)
class CallOutcome:
    """How a call ended, and where it ran last.

    `elapsed_s` is the whole time, waiting included; `engine_s` what all attempts together took at their engines.
    """

    status: Status
    engine: Engine
    mode: Mode
    reason: str
    attempts: int
    elapsed_s: float = 0.0
    engine_s: float = 0.0
    completion: Completion | None = None
    problem: Problem | None = None


async def ask_whole(client: EngineClient, request: CompletionRequest) -> Completion:
    """The usual way to ask: the whole answer at once."""
    return await client.complete(request)


def _never() -> bool:
    """Nobody reads of an answer before it is whole."""
    return False


class SuspectsOfAll(Protocol):
    """Whose turn it is among the suspects of all workers; `state.suspects.Suspects` in a worker."""

    def alone(self, task_id: str, item: int = 0) -> AbstractAsyncContextManager[None]: ...


class Calls:
    """Carries calls out; owns every retry."""

    def __init__(self, admission: Admission, suspects: SuspectsOfAll, *, timeout_s: float, report_lost: ReportLost) -> None:
        self._admission = admission
        self._suspects = suspects
        self._timeout_s = timeout_s
        self._report_lost = report_lost
        self.throughput = Throughput()

    async def run(  # noqa: PLR0913 - what is asked, how, and what may be done with the answer
        self,
        task_type: TaskType,
        call_id: CallId,
        request: CompletionRequest,
        judge: Judge,
        *,
        ask: Ask = ask_whole,
        may_reask: bool = False,
        has_begun: Callable[[], bool] = _never,
    ) -> CallOutcome:
        """The outcome of one call; waits for an engine for as long as the caller lets it.

        `judge` says what a complete answer is worth; with `may_reask` an answer worth neither `ok` nor `empty` is asked for
        again. `has_begun`: whether somebody has read a part of the answer, so that a second one must not follow. Raises
        `ConfigurationError` where no allowed engine is configured, `CallRevoked` where its task was revoked, `StreamInterrupted`
        where an answer that has begun broke off, and `WorkerStopping` or `WaitedTooLong` where its message should go back to its
        queue.
        """
        started, awaited, call = time.monotonic(), _awaited.get({}), object()
        task = running.current()
        step: Again | Done = Again(delay_s=0.0, tally=Tally())
        engine_s = 0.0
        while isinstance(step, Again):
            await asyncio.sleep(step.delay_s)
            tally = step.tally
            awaited.pop(call, None)
            task.check()
            task.call_comes()
            async with self._turn(call_id, tally), self._admission.slot(task_type, call_id) as admitted:
                awaited[call] = f"{admitted.engine.label} had not answered"
                asked_at = time.monotonic()
                with task.pinned():
                    answer = await self._ask(admitted, _varied(request, tally.reasks), ask, has_begun)
                took_s = time.monotonic() - asked_at
                engine_s += took_s
            error = answer.error_class if isinstance(answer, EngineError) else None
            telemetry.tell(AttemptEnded(task_type=task_type, engine=admitted.engine, error=error, took_s=took_s))
            if isinstance(answer, EngineError):
                awaited[call] = str(answer)
            outcome, step = _weigh(admitted, answer, judge, tally, may_reask=may_reask)
            if isinstance(answer, EngineLost):
                await self._report_lost(admitted.client, answer)
        awaited.pop(call)
        task.call_done(outcome.engine, outcome.mode)
        elapsed_s = time.monotonic() - started
        outcome = replace(outcome, attempts=step.tally.attempts, elapsed_s=elapsed_s, engine_s=engine_s)
        if outcome.completion is not None:
            self.throughput.add(outcome.engine, outcome.completion.completion_tokens or 0)
        _tell_finished(task_type, outcome)
        if not call_id.of_job or _is_debugged():
            _log_finished(task_type, call_id, outcome, step.tally)
        return outcome

    @asynccontextmanager
    async def within(self, deadline_s: float, task_type: TaskType, only: Engine | None = None) -> AsyncIterator[None]:
        """Bounds the whole of a task, waiting included; raises `DeadlineExceeded`, which says what it waited for."""
        if deadline_s <= 0:
            raise DeadlineExceeded("all of the task's time passed in its queue: start more workers, or allow a longer deadline_s")
        awaited: dict[object, str] = {}
        before = _awaited.set(awaited)
        try:
            async with asyncio.timeout(deadline_s) as deadline:
                yield
        except TimeoutError:
            if not deadline.expired():
                raise
            last = next(iter(awaited.values()), None) or self._admission.waits_for(task_type, only)
            raise DeadlineExceeded(f"not done within {round(deadline_s, 2):g} s; last: {last}") from None
        finally:
            _awaited.reset(before)

    def item(self, delivery: Delivery, number: int = 0) -> AbstractAsyncContextManager[None]:
        """One item of a task. If it may be what kills workers, it runs while no other suspect does."""
        return self._suspects.alone(delivery.task_id, number) if delivery.is_suspect else nullcontext()

    def _turn(self, call_id: CallId, tally: Tally) -> AbstractAsyncContextManager[None]:
        """A call that may be what kills engines runs while no other suspect does."""
        alone = tally.is_suspect and not call_id.alone
        return self._suspects.alone(call_id.task_id) if alone else nullcontext()

    async def _ask(
        self, admitted: Admitted, request: CompletionRequest, ask: Ask, has_begun: Callable[[], bool]
    ) -> Completion | EngineError:
        """One attempt; its replica's breaker is told how it ended."""
        answer = await self._attempt(admitted, request, ask)
        admitted.ended = _ended(answer)
        if isinstance(answer, EngineError) and has_begun():
            if isinstance(answer, EngineLost):
                await self._report_lost(admitted.client, answer)
            raise StreamInterrupted(f"the answer broke off: {answer}") from answer
        return answer

    async def _attempt(self, admitted: Admitted, request: CompletionRequest, ask: Ask) -> Completion | EngineError:
        label = admitted.engine.label
        try:
            async with admitted.limit(self._timeout_s):
                return await ask(admitted.client, request)
        except TimeoutError:
            if admitted.closed:
                return EngineReleased(f"{label} gives its memory back: the call was closed there")
            return EngineBusy(f"{label} gave no whole answer within AEGIS_CALL_TIMEOUT_S={self._timeout_s:g} s")
        except EngineError as error:
            return error


def failure(problem: Problem | None) -> CallFailed:
    """The exception of a task whose only call, or whose every call, ended with `problem`."""
    kind = SetAside if problem is not None and problem.error_class == ErrorClass.POISON else CallFailed
    return kind(problem.message if problem else "the call failed")


def _ended(answer: Completion | EngineError) -> Ended:
    """What the answer says of its replica: one that refuses a request serves."""
    if isinstance(answer, EngineReleased):
        return Ended.OTHER
    return Ended.FAILED if isinstance(answer, EngineError) and answer.blames_engine else Ended.SERVED


def _weigh(
    admitted: Admitted, answer: Completion | EngineError, judge: Judge, tally: Tally, *, may_reask: bool
) -> tuple[CallOutcome, Again | Done]:
    """What the answer means as an outcome, and whether to ask again."""
    base = CallOutcome(
        status=Status.FAILED, engine=admitted.engine, mode=admitted.mode, reason=admitted.reason, attempts=tally.attempts
    )
    if isinstance(answer, EngineError):
        jitter = random.random()  # noqa: S311 - it spreads retries, it guards nothing
        step = attempts.after_error(answer, tally, jitter)
        return replace(base, problem=_problem(answer, step.tally)), step
    status = judge(answer)
    step = attempts.after_answer(tally, usable=status in _USABLE, may_reask=may_reask)
    return replace(base, status=status, completion=answer), step


def _problem(error: EngineError, tally: Tally) -> Problem:
    said = ": ".join(filter(None, (str(error), error.words)))
    if tally.crashes >= attempts.MAX_CRASHES:
        return Problem(
            error_class=ErrorClass.POISON, message=f"in flight at {tally.crashes} crashes of engines, and set aside; last: {said}"
        )
    return Problem(error_class=error.error_class, message=said)


def _varied(request: CompletionRequest, reasks: int) -> CompletionRequest:
    """The request, changed a little at each re-ask so that the answer can be another one."""
    if reasks == 0:
        return request
    sampling = request.sampling
    varied = replace(
        sampling,
        seed=None if sampling.seed is None else sampling.seed + reasks,
        temperature=min(1.0, (sampling.temperature or 0.0) + _REASK_TEMPERATURE_STEP * reasks),
    )
    return replace(request, sampling=varied)


def _tell_finished(task_type: TaskType, outcome: CallOutcome) -> None:
    completion = outcome.completion
    telemetry.tell(
        CallFinished(
            task_type=task_type,
            engine=outcome.engine,
            status=outcome.status,
            prompt_tokens=(completion and completion.prompt_tokens) or 0,
            completion_tokens=(completion and completion.completion_tokens) or 0,
        )
    )
    if outcome.problem is not None and outcome.problem.error_class == ErrorClass.POISON:
        telemetry.tell(PoisonFound(killed=Killed.ENGINE))


def _is_debugged() -> bool:
    """Whether calls of jobs, of which there are a million, are logged one by one: a line costs more than the call's admission."""
    return logging.getLogger(__name__).isEnabledFor(logging.DEBUG)


def _log_finished(task_type: TaskType, call_id: CallId, outcome: CallOutcome, tally: Tally) -> None:
    completion = outcome.completion
    log.info(
        "call.finished",
        call=str(call_id),
        task_type=task_type.value,
        status=outcome.status.value,
        engine=outcome.engine.value,
        mode=outcome.mode.value,
        reason=outcome.reason,
        attempts=outcome.attempts,
        losses=tally.losses,
        ms=round(outcome.elapsed_s * 1000),
        prompt_tokens=completion.prompt_tokens if completion else None,
        completion_tokens=completion.completion_tokens if completion else None,
        problem=outcome.problem.error_class if outcome.problem else None,
    )
