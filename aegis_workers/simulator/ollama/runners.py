"""Which models are in memory: loading at first use, one load at a time, and leaving after `keep_alive`."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aegis_workers.simulator.clock import Timeline, Timer
from aegis_workers.simulator.memory import Memory
from aegis_workers.simulator.options import Options
from aegis_workers.simulator.slots import QueueFull, Slots
from aegis_workers.simulator.stats import Stats

# Runner options: a request with another value of one of these makes Ollama load the model anew.
_RUNNER_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
_DEFAULTS = {"num_batch": 512, "num_gpu": -1, "main_gpu": 0}
# Models loaded at once: Ollama's automatic value is three for each GPU.
_MAX_LOADED = 3


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A model with the options that its runner needs."""

    model: str
    num_ctx: int
    options: tuple[tuple[str, Any], ...]


def wanted(model: str, options: Mapping[str, Any], default_num_ctx: int) -> Wanted:
    """What a request with these `options` needs to be loaded."""
    num_ctx = int(options.get("num_ctx") or default_num_ctx)
    asked = {**_DEFAULTS, **{name: options[name] for name in _RUNNER_OPTIONS if options.get(name) is not None}}
    return Wanted(model=model, num_ctx=num_ctx, options=tuple(sorted({**asked, "num_ctx": num_ctx}.items())))


@dataclass(kw_only=True, eq=False)
class Runner:
    """A loaded model. `users` are the calls that hold it; it leaves `keep_alive_s` after the last of them."""

    wanted: Wanted
    slots: Slots
    keep_alive_s: float
    idle_since: float
    users: int = 0
    timer: Timer | None = None
    drained: asyncio.Event = field(default_factory=asyncio.Event)


class Runners:
    """The models in memory."""

    def __init__(self, timeline: Timeline, memory: Memory, stats: Stats, options: Options) -> None:
        self._timeline = timeline
        self._memory = memory
        self._stats = stats
        self._options = options
        self._loaded: dict[str, Runner] = {}
        self._loading = asyncio.Lock()
        self._pending = 0

    @asynccontextmanager
    async def use(self, need: Wanted, keep_alive_s: float | None) -> AsyncIterator[Runner]:
        """A runner for `need`, loaded first where it is not.

        Raises `QueueFull` where too many wait for a load, `TooLittleFree` where the pool has no room for it.
        """
        runner = await self._obtain(need)
        if keep_alive_s is not None:
            runner.keep_alive_s = keep_alive_s
        try:
            yield runner
        finally:
            self._let_go(runner)

    def unload(self, model: str) -> None:
        """Let the model leave once no call holds it; nothing where it is not loaded."""
        runner = self._loaded.get(model)
        if runner is not None:
            runner.keep_alive_s = 0.0
            self._expect_leaving(runner)

    def loaded(self) -> list[tuple[Runner, float]]:
        """The loaded models, each with the seconds that it will stay from now, the longest first."""
        now = self._timeline.now()
        left = [(runner, runner.keep_alive_s - (0.0 if runner.users else now - runner.idle_since)) for runner in self._ours()]
        return sorted(left, key=lambda entry: -entry[1])

    def _ours(self) -> list[Runner]:
        return list(self._loaded.values())

    async def _obtain(self, need: Wanted) -> Runner:
        runner = self._hold(need)
        if runner is not None:
            return runner
        # The one that loads has left Ollama's queue, so the bound counts those behind it.
        if self._loading.locked() and self._pending >= self._options.max_queue:
            raise QueueFull
        self._pending += 1
        try:
            await self._loading.acquire()
        finally:
            self._pending -= 1
        try:
            return self._hold(need) or await self._load(need)
        finally:
            self._loading.release()

    def _hold(self, need: Wanted) -> Runner | None:
        runner = self._loaded.get(need.model)
        if runner is None or runner.wanted != need:
            return None
        runner.users += 1
        runner.drained.clear()
        if runner.timer is not None:
            runner.timer.cancel()
        return runner

    async def _load(self, need: Wanted) -> Runner:
        await self._make_room(need)
        self._memory.take(need.model)
        self._stats.loads += 1
        try:
            await self._timeline.sleep(self._options.start_seconds)
        except BaseException:  # the only one who waited for it left
            self._memory.give_back(need.model)
            raise
        keep_alive_s = math.inf if self._options.keep_alive_s < 0 else self._options.keep_alive_s
        slots = Slots(self._timeline, self._stats, size=self._options.slots)
        self._loaded[need.model] = Runner(
            wanted=need, slots=slots, keep_alive_s=keep_alive_s, idle_since=self._timeline.now(), users=1
        )
        return self._loaded[need.model]

    async def _make_room(self, need: Wanted) -> None:
        leaving = self._loaded.get(need.model)
        if leaving is None and len(self._loaded) >= _MAX_LOADED:
            leaving = min(self._ours(), key=lambda runner: (runner.users, runner.idle_since))
        if leaving is None:
            return
        while leaving.users:
            leaving.drained.clear()
            await leaving.drained.wait()
        self._drop(leaving)

    def _let_go(self, runner: Runner) -> None:
        runner.users -= 1
        if not runner.users:
            runner.idle_since = self._timeline.now()
            runner.drained.set()
            self._expect_leaving(runner)

    def _expect_leaving(self, runner: Runner) -> None:
        if runner.timer is not None:
            runner.timer.cancel()
        if runner.users or math.isinf(runner.keep_alive_s):
            return
        due = max(self._timeline.now(), runner.idle_since + runner.keep_alive_s)
        runner.timer = self._timeline.clock.call_at(due, lambda: self._drop(runner))

    def _drop(self, runner: Runner) -> None:
        if runner.timer is not None:
            runner.timer.cancel()
        if self._loaded.get(runner.wanted.model) is runner:
            del self._loaded[runner.wanted.model]
            self._memory.give_back(runner.wanted.model)
