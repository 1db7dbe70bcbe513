"""Imported by a worker, it takes this mechanism away: a call whose engine failed is asked for again."""

from aegis_workers.dispatch import attempts
from aegis_workers.dispatch.attempts import Again, Done, Tally
from aegis_workers.errors import EngineError


def _give_up(error: EngineError, tally: Tally, jitter: float) -> Again | Done:  # noqa: ARG001 - the signature of what it replaces
    return Done(tally=tally)


attempts.after_error = _give_up
