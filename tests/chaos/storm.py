"""A storm: hundreds of calls, a fault in the midst of them, and what came of every one of them."""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from installation import Installation, eventually, installed

from aegis_workers.routing import Engine
from aegis_workers.state import keys

CALLS = 240
AT_LEAST = 20
# What the engine may have in flight, and what one worker holds at most: twice as much.
LIMIT = 64
HELD = 2 * LIMIT
WITHIN_S = 120.0
VLLM = ("--call-seconds", "1", "--slots", "256")
_RESULT = re.compile(rb"\r\nSET\r\n\$\d+\r\ncelery-task-meta-([0-9a-f-]{36})\r\n", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Aftermath:
    """What came of a storm.

    `lost`: calls without an outcome. `failed`: calls whose outcome is no answer. `twice`: calls whose outcome was written more
    than once. `extra`: calls that the engine was asked beyond one for each. `slots_left`: leases of slots when all was over.
    `over_s`: from the end of the fault until every call had its outcome. `held`: calls that the engine had been asked for and
    that had no outcome when all workers were dead, 0 where one lived; it may be more than were in flight, as a call that is
    answered gives its slot to the next before its outcome is recorded.
    """

    calls: int
    in_flight: int
    lost: int
    failed: int
    twice: int
    extra: int
    slots_left: int
    over_s: float
    held: int

    def fulfils(self, *, extra: int) -> bool:
        """Whether every call was answered and its outcome written once, with at most so many further calls to the engine."""
        kept = (self.lost, self.failed, self.twice, self.slots_left) == (0, 0, 0, 0)
        return kept and self.in_flight >= AT_LEAST and self.extra <= extra

    def line(self, fault: str) -> str:
        """The line of the README's table."""
        found = (
            self.calls,
            self.in_flight,
            self.lost,
            self.twice,
            max(0, self.extra),
            self.slots_left,
            f"{self.over_s:.1f}",
        )
        return "| " + " | ".join(map(str, (fault, *found))) + " |"


@dataclass
class Storm:
    """Extractions under way at vLLM's simulator."""

    place: Installation
    ids: Sequence[str]
    in_flight: int = 0
    asked_before: int = 0
    modules: Sequence[str] = ()
    ended_at: float = 0.0
    held: int = 0

    def strike(self, fault: Callable[["Storm"], None]) -> None:
        """The fault, once the engine has enough calls by its own count; returns when the fault is over."""
        self.in_flight = eventually(lambda: (now := self.place.in_flight(Engine.VLLM)) >= AT_LEAST and now)
        fault(self)
        self.ended_at = time.monotonic()

    def aftermath(self, *, within_s: float = WITHIN_S, settled: Callable[["Storm"], bool] = lambda _: True) -> Aftermath:
        """What came of it, once every call has an outcome and the victim has `settled`, or so much time has passed."""
        deadline = self.ended_at + within_s
        while time.monotonic() < deadline and None in self.states():
            time.sleep(0.05)
        over_s = time.monotonic() - self.ended_at
        while time.monotonic() < deadline and (self._slots() or not settled(self)):
            time.sleep(0.05)
        states, written = self.states(), written_outcomes(self.place)
        return Aftermath(
            calls=len(self.ids),
            in_flight=self.in_flight,
            lost=states.count(None),
            failed=states.count("FAILURE"),
            twice=sum(written[task_id] > 1 for task_id in self.ids),
            extra=self._asked() - len(self.ids),
            slots_left=self._slots(),
            over_s=over_s,
            held=self.held,
        )

    def states(self) -> list[str | None]:
        """Celery's state of each call, None where it has no outcome."""
        outcomes: Any = self.place.redis.mget([f"celery-task-meta-{task_id}" for task_id in self.ids])
        return [outcome and json.loads(outcome)["status"] for outcome in outcomes]

    def all_dead(self) -> None:
        """No worker lives. Returns when the engine knows, and notes what they held."""
        eventually(lambda: self.place.in_flight(Engine.VLLM) == 0)
        self.held = self._asked() - sum(state is not None for state in self.states())

    def _asked(self) -> int:
        return self.asked_before + asked(self.place.stats(Engine.VLLM))

    def _slots(self) -> int:
        names = list(self.place.redis.scan_iter(f"{keys.SLOTS_PREFIX}*"))
        return sum(int(self.place.redis.zcard(name)) for name in names)


@contextmanager
def hold(folder: Path, *mechanisms_off: str, workers: int = 1, **settings: Any) -> Iterator[Installation]:
    """An installation whose extraction runs on vLLM or waits for it, with calls of a second.

    `mechanisms_off`: modules of this folder that take something away from the workers which import them.
    """
    # Read by the workers alone, which import those modules.
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    rules: dict[str, Any] = {
        "llm_engine_mode": "vllm",
        "fallback": "hold",
        "call_timeout_s": 5,
        "ollama_model": None,
        "vllm_limit": LIMIT,
        "vllm_interactive_slots": 0,
    }
    with pytest.MonkeyPatch.context() as patch, installed(folder, vllm=VLLM, **rules | settings) as place:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("STORM_FOLDER", str(folder))
        start_workers(place, workers, *mechanisms_off)
        place.await_engines(Engine.VLLM)
        yield place


def start_workers(place: Installation, count: int, *modules: str) -> None:
    """Workers for extraction, each of which imports these modules of this folder."""
    place.start_workers(*["extraction"] * count, options=[option for module in modules for option in ("--include", module)])


def begin(place: Installation, *, calls: int = CALLS) -> Storm:
    """Enqueue the calls, each with a text of its own."""
    before = -asked(place.stats(Engine.VLLM))
    texts = [f"Ada Stone met Bo Hill in town {number}." for number in range(calls)]
    return Storm(asked_before=before, place=place, ids=[place.send("aegis.extract", text=text).id for text in texts])


def asked(stats: Mapping[str, int]) -> int:
    """Calls that an engine has taken, by its own count."""
    return stats["requests"] - stats["rejected"]


def written_outcomes(place: Installation) -> Mapping[str, int]:
    """How often each task's outcome was written, by Redis's own record of all writes; a restart of Redis does not lose it."""
    assert place.server.process is not None
    folder: Path = place.server.process.log.parent
    files = [*folder.glob("appendonlydir/*.aof"), *folder.glob("appendonly.aof")]
    return Counter(found.decode() for file in files for found in _RESULT.findall(file.read_bytes()))
