"""Processes that die between two steps of their work on files."""

import os
import sys
from collections.abc import Callable
from typing import Any

_STEPS = {"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock"}


def dies_at(step: int, work: Callable[[], object]) -> bool:
    """Does `work` in a process that ends before its step of this number, as kill -9 would end it. False where it has fewer."""
    child = os.fork()
    if child == 0:
        left = step

        def count(event: str, _: tuple[Any, ...]) -> None:
            nonlocal left
            if event in _STEPS:
                left -= 1
                if left < 0:
                    os._exit(1)

        sys.addaudithook(count)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status != 2, "the work failed"
    return status != 0
