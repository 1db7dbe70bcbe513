"""When a job fails so often that going on would waste calls: decided on its last items."""

import json
from collections import Counter, deque
from dataclasses import dataclass

from aegis_workers.outcome import Status

# What an engine or a schema that does not fit gives; an answer that is only short of something is no failure.
FAILURES = frozenset({Status.FAILED, Status.INVALID, Status.TRUNCATED})

# An engine may say much, and the same error a little differently each time.
_MAX_CHARS = 200


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an item ended: `error` is the class of what went wrong and what happened, in the words of the result line."""

    status: Status
    error: str = ""


def ending(status: Status, line: bytes) -> Ending:
    """How the item of this result line ended."""
    if status not in FAILURES:
        return Ending(status=status)
    error = json.loads(line).get("error") or {}
    words = (str(error[name]) for name in ("class", "code", "message") if error.get(name))
    return Ending(status=status, error=": ".join(words)[:_MAX_CHARS])


class Recent:
    """The last `window` items of a job that ended. It is too often when more than `share` of them failed."""

    def __init__(self, *, share: float, window: int) -> None:
        self._share = share
        self._endings: deque[Ending] = deque(maxlen=window)

    def note(self, ending: Ending) -> None:
        """An item ended."""
        self._endings.append(ending)

    def forget(self) -> None:
        """Begin anew: the operator has seen to it."""
        self._endings.clear()

    def objection(self) -> str | None:
        """Why the job should not go on, in words; None where it should, or where too few items have ended to tell."""
        failed = [ending for ending in self._endings if ending.status in FAILURES]
        seen = len(self._endings)
        if seen < (self._endings.maxlen or 0) or len(failed) <= self._share * seen:
            return None
        commonest = Counter(ending.error or ending.status.value for ending in failed).most_common(1)[0][0]
        return f"{len(failed)} of the last {seen} items failed; most often: {commonest}"
