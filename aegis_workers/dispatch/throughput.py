"""How fast each engine answers this process."""

import time
from collections import deque
from collections.abc import Callable, Mapping

from aegis_workers.routing import Engine

WINDOW_S = 15.0


class Throughput:
    """Completion tokens of finished calls a second, over the last `WINDOW_S` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._finished: dict[Engine, deque[tuple[float, int]]] = {engine: deque() for engine in Engine}

    def add(self, engine: Engine, tokens: int) -> None:
        """Count a finished call."""
        self._finished[engine].append((self._clock(), tokens))
        self._forget(engine)

    @property
    def tokens_per_s(self) -> Mapping[str, float]:
        """By engine; engines that finished nothing are missing."""
        for engine in Engine:
            self._forget(engine)
        return {
            engine.value: sum(tokens for _, tokens in finished) / WINDOW_S
            for engine, finished in self._finished.items()
            if finished
        }

    def _forget(self, engine: Engine) -> None:
        finished, oldest = self._finished[engine], self._clock() - WINDOW_S
        while finished and finished[0][0] < oldest:
            finished.popleft()
