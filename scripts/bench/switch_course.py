"""A switch as it is seen from outside: when each of its phases began, by Redis, by the memory's file and by the engine itself."""

import json
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from place import Place

from aegis_workers.routing import Engine
from aegis_workers.simulator.pool import Contents
from aegis_workers.state import keys

_EVERY_S = 0.005


@dataclass(frozen=True, kw_only=True)
class Course:
    """Seconds of one switch: of the whole, of the phases that last as long as the engines make them, and of those between."""

    whole_s: float
    phases_s: dict[str, float]
    between_s: dict[str, float]

    @property
    def own_s(self) -> float:
        """What the controller took: all but the engines' phases."""
        return self.whole_s - sum(self.phases_s.values())


@dataclass
class Watch:
    """Looks at everything all the time, until the block ends. `coming` needs `gb`."""

    here: Place
    pool: Path
    coming: Engine
    gb: float
    _seen: dict[str, float] = field(default_factory=dict)
    _told: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._begun_at = time.perf_counter()
        self._thread = threading.Thread(target=self._run, name="watch")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._told.set()
        self._thread.join()

    def is_ready(self) -> bool:
        """Whether the engine that comes is."""
        return "ready" in self._seen

    def course(self) -> Course:
        """What it took, when the engine is ready."""
        seen = self._seen

        def between(begin: str, end: str) -> float:
            return max(0.0, seen[end] - seen[begin]) if begin in seen and end in seen else 0.0

        phases = {
            "drain": between("fenced", "drained"),
            "unload, until the memory is free": between("stopping", "free"),
            "start, until it answers": between("starting", "answers"),
        }
        steps = {
            "until calls are fenced off": seen.get("fenced", self._begun_at) - self._begun_at,
            "from the last call's end until it is told to unload": between("drained", "stopping"),
            "from enough memory until the other is told to start": between("free", "starting"),
            "from its first answer until it is proven and ready": between("answers", "ready"),
        }
        return Course(whole_s=seen["ready"] - self._begun_at, phases_s=phases, between_s=steps)

    def _run(self) -> None:
        while not self._told.wait(_EVERY_S):
            leaving, coming = self._control(self.coming.other), self._control(self.coming)
            self._note("fenced", leaving.get("phase") in {"draining", "stopping", "stopped"})
            self._note("drained", "fenced" in self._seen and self._leases() == 0)
            self._note("stopping", leaving.get("phase") in {"stopping", "stopped"})
            self._note("free", "stopping" in self._seen and self._free_gb() >= self.gb)
            self._note("starting", coming.get("phase") in {"starting", "warming", "ready"})
            self._note("answers", "starting" in self._seen and self._answers())
            self._note("ready", coming.get("phase") == "ready" and not coming.get("fenced"))

    def _note(self, what: str, holds: object) -> None:
        if holds and what not in self._seen:
            self._seen[what] = time.perf_counter()

    def _control(self, engine: Engine) -> dict[str, Any]:
        written: Any = self.here.redis.hget(keys.engine(engine), "control")
        found: dict[str, Any] = json.loads(written) if written else {}
        return found

    def _leases(self) -> int:
        names = [f"{keys.SLOTS_PREFIX}{url}:*" for url in self.here.settings.urls(self.coming.other)]
        return sum(int(self.here.redis.zcard(one)) for name in names for one in list(self.here.redis.scan_iter(name)))

    def _free_gb(self) -> float:
        return Contents.model_validate_json(self.pool.read_bytes()).free_gb

    def _answers(self) -> bool:
        """Whether vLLM listens, or Ollama has loaded its model."""
        path = "/health" if self.coming is Engine.VLLM else "/api/ps"
        with suppress(OSError), urllib.request.urlopen(f"{self.here.url(self.coming)}{path}", timeout=1) as response:  # noqa: S310
            return self.coming is Engine.VLLM or bool(json.load(response)["models"])
        return False
