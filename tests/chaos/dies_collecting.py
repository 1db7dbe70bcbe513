"""A controller that kills itself at one step of its first part, as `DIES_AT` says: `name:times:before` or `name:times:after`."""

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from aegis_workers.cli import main
from aegis_workers.jobs import disk
from aegis_workers.jobs.parts import Parts
from aegis_workers.state.jobs import Jobs

OWNERS: dict[str, Any] = {
    "write_new": disk,
    "_finish": Parts,
    "write": Parts,
    "commit_in_redis": Jobs,
    "_move": Parts,
    "commit": Parts,
}
NAME, TIMES, WHEN = os.environ.get("DIES_AT", "write:1:after").split(":")


class _Fate:
    """The step is counted from the first part on: what a leader before left half done is no part of its own."""

    begun = False
    left = int(TIMES)

    @classmethod
    def meet(cls, when: str) -> None:
        cls.left -= cls.begun and when == WHEN
        if cls.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _doomed(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def asynchronous(*args: Any, **kwargs: Any) -> Any:
        _Fate.meet("before")
        answer = await original(*args, **kwargs)
        _Fate.meet("after")
        return answer

    @functools.wraps(original)
    def synchronous(*args: Any, **kwargs: Any) -> Any:
        _Fate.meet("before")
        answer = original(*args, **kwargs)
        _Fate.meet("after")
        return answer

    return asynchronous if inspect.iscoroutinefunction(original) else synchronous


def _begins(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def write(*args: Any, **kwargs: Any) -> Any:
        _Fate.begun = True
        return original(*args, **kwargs)

    return write


owner, attribute = OWNERS[NAME], NAME.removesuffix("_in_redis")
setattr(owner, attribute, _doomed(getattr(owner, attribute)))
Parts.write = _begins(Parts.write)  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
