"""What to do after a call's attempt went wrong: pure, and the only owner of retries."""

from dataclasses import dataclass, replace

from aegis_workers.errors import EngineError, EngineLost, ErrorClass

# A call that was in flight at this many crashes of engines is set aside; before the last of them it was the only suspect.
MAX_CRASHES = 3
# An engine that answers badly while it serves others is asked this often in all.
MAX_ATTEMPTS = 4
# One that says "not now" has done no work for the call: it is asked this often.
MAX_REFUSALS = 20
_NOT_NOW = frozenset({429, 503})
# An answer that cannot be used is asked for again this often.
MAX_REASKS = 2

_BUSY_FIRST_S, _BUSY_CAP_S = 0.5, 15.0
_REFUSED_CAP_S = 5.0
_LOST_FIRST_S, _LOST_CAP_S = 0.1, 5.0


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What a call has been through. `attempts` are spent, `losses` are not: an engine that went away was no fault of the call.

    `crashes`: the losses at which it was in flight at an engine that may have crashed.
    """

    attempts: int = 0
    reasks: int = 0
    losses: int = 0
    crashes: int = 0

    @property
    def is_suspect(self) -> bool:
        """Whether the call may be what kills engines: it is then asked for while no other suspect is."""
        return self.crashes >= MAX_CRASHES - 1


@dataclass(frozen=True, kw_only=True)
class Again:
    """Ask again after `delay_s`, wherever the router then sends the call."""

    delay_s: float
    tally: Tally


@dataclass(frozen=True, kw_only=True)
class Done:
    """There is no better outcome to be had."""

    tally: Tally


def after_error(error: EngineError, tally: Tally, jitter: float) -> Again | Done:
    """The step after `error`. `jitter` in 0..1 spreads the delays of calls that failed together."""
    match error.error_class:
        case ErrorClass.ENGINE_FATAL:
            crashed = isinstance(error, EngineLost) and error.crashed
            lost = replace(tally, losses=tally.losses + 1, crashes=tally.crashes + crashed)
            if lost.crashes >= MAX_CRASHES:
                return Done(tally=lost)
            return Again(delay_s=_backoff(_LOST_FIRST_S, _LOST_CAP_S, tally.losses, jitter), tally=lost)
        case ErrorClass.TRANSIENT:
            spent = replace(tally, attempts=tally.attempts + 1)
            most, cap_s = (MAX_REFUSALS, _REFUSED_CAP_S) if error.status in _NOT_NOW else (MAX_ATTEMPTS, _BUSY_CAP_S)
            if spent.attempts >= most:
                return Done(tally=spent)
            delay_s = _backoff(_BUSY_FIRST_S, cap_s, tally.attempts, jitter)
            return Again(delay_s=max(delay_s, error.retry_after_s or 0.0), tally=spent)
        case ErrorClass.ITEM_FATAL | ErrorClass.CONTENT | ErrorClass.POISON:
            return Done(tally=replace(tally, attempts=tally.attempts + 1))


def after_answer(tally: Tally, *, usable: bool, may_reask: bool) -> Again | Done:
    """The step after a complete answer: take it, or ask again where another might be better."""
    spent = replace(tally, attempts=tally.attempts + 1)
    if usable or not may_reask or tally.reasks >= MAX_REASKS:
        return Done(tally=spent)
    return Again(delay_s=0.0, tally=replace(spent, reasks=tally.reasks + 1))


def _backoff(first_s: float, cap_s: float, failures: int, jitter: float) -> float:
    full = min(cap_s, first_s * 2.0 ** min(failures, 16))
    return full * (0.5 + 0.5 * jitter)
