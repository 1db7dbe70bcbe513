"""An installation with jobs: controllers as processes of their own, a spool, and what came of a job by its files."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from installation import Installation, eventually, installed

from aegis_workers.jobs import submission
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.journal import State
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms
from aegis_workers.local import environment, process
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine
from aegis_workers.state import job_state
from aegis_workers.state.job_state import JobState

VLLM = ("--call-seconds", "0.2", "--slots", "256")


@dataclass
class JobPlace:
    """`place` with a data folder, and the controllers that were started."""

    place: Installation
    controllers: list[Process] = field(default_factory=list)
    started: int = 0

    @property
    def spool(self) -> Spool:
        """The jobs."""
        return Spool(self.place.settings.data_dir)

    def start_controller(self, *, module: str = "aegis_workers.cli", **env: str) -> Process:
        """A controller; it may not lead yet. `module` is run instead of the command line, with `env` beside the settings."""
        log = self.place.logs / f"controller-{self.started}.log"
        command = [sys.executable, "-m", module, "controller"]
        env = environment.of(self.place.settings) | {"PYTHONUNBUFFERED": "1"} | env
        self.started += 1
        self.controllers.append(process.start("controller", command, log=log, env=env))
        return self.controllers[-1]

    def stop_controllers(self) -> None:
        """End all of them."""
        process.stop(self.controllers, 10)
        self.controllers.clear()

    def submit(self, items: Iterable[Any], **terms: Any) -> JobFolder:
        """A job of these items."""
        return submission.write(self.spool, Items(items=items), Terms(**terms), self.place.settings).job

    def state(self, job: JobFolder) -> JobState | None:
        """What Redis knows of it."""
        return job_state.read_now(self.place.redis, [job.id]).get(job.id)

    def in_motion(self, job: JobFolder) -> int:
        """Chunks of it that were fed and are not collected."""
        state = self.state(job)
        return 0 if state is None else state.out_chunks + state.recorded - state.collected

    def await_state(self, job: JobFolder, state: State, *, within_s: float = 30.0) -> None:
        """Returns when its journal says so."""
        eventually(lambda: job.journal.last().state is state, within_s=within_s)

    def await_lines(self, job: JobFolder, count: int, *, within_s: float = 30.0) -> None:
        """Returns when so many lines are among the results."""
        eventually(lambda: len(lines(job)) >= count, within_s=within_s)

    def asked(self, engine: Engine = Engine.VLLM) -> int:
        """Calls that an engine has taken, by its own count."""
        stats = self.place.stats(engine)
        return int(stats["requests"]) - int(stats["rejected"])

    def logs(self) -> str:
        """Everything that the controllers have logged."""
        return "".join(one.log.read_text(errors="replace") for one in self.controllers)


def lines(job: JobFolder) -> list[dict[str, Any]]:
    """The result lines of a job, in the order of its parts."""
    paths = sorted(job.results.glob("*.jsonl")) if job.results.is_dir() else []
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def ids(found: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """How often each custom_id is there."""
    return Counter(line["custom_id"] for line in found)


def texts(count: int) -> Iterator[tuple[str, str]]:
    """So many short documents, each with an id of its own."""
    return ((f"doc-{number}", f"Ada Stone met Bo Hill in town {number}.") for number in range(count))


@contextmanager
def job_place(folder: Path, *, workers: int = 1, vllm: Sequence[str] = VLLM, **settings: Any) -> Iterator[JobPlace]:
    """Workers for extraction on vLLM's simulator alone, and a spool of their own; no controller yet."""
    rules: dict[str, Any] = {
        "llm_engine_mode": "vllm",
        "ollama_model": None,
        "vllm_limit": 64,
        "vllm_interactive_slots": 0,
    }
    with served(folder, workers=workers, vllm=vllm, **rules | settings) as place:
        yield place


@contextmanager
def served(folder: Path, *, workers: int = 1, vllm: Sequence[str] = (), **settings: Any) -> Iterator[JobPlace]:
    """Workers for extraction on the engines of these settings, and a spool of their own; no controller yet."""
    with installed(folder, *["extraction"] * workers, vllm=vllm, **{"data_dir": folder / "data"} | settings) as place:
        found = JobPlace(place)
        try:
            yield found
        finally:
            found.stop_controllers()
