"""An installation on a host whose memory is too small for both engines: Ollama runs, and controllers start and end vLLM."""

import json
import os
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from installation import eventually, installed
from job_place import JobPlace

from aegis_workers.local import process
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine
from aegis_workers.simulator.pool import Contents, Pool
from aegis_workers.state import keys

TOTAL_GB = 100.0
SIZES_GB: Mapping[Engine, float] = {Engine.VLLM: 60.0, Engine.OLLAMA: 50.0}
CALLS = ("--call-seconds", "0.3", "--slots", "64")
# How long a switch may take on a busy machine, with a controller that takes over in its midst.
WITHIN_S = 40.0

Record = Mapping[str, Any]


@dataclass(kw_only=True)
class EngineHost(JobPlace):
    """`pool` is the memory's file, `tally` has a digest of every text that was answered, by whichever engine."""

    pool: Path
    tally: Path

    def write_mode(self, mode: str) -> None:
        """What an operator does with `redis-cli`."""
        self.place.redis.set(keys.MODE, mode)

    def control(self, engine: Engine) -> Record:
        """What the leader makes of the engine; empty where none has said so."""
        written: Any = self.place.redis.hget(keys.engine(engine), "control")
        found: Record = json.loads(written) if written else {}
        return found

    def is_fenced(self, engine: Engine) -> bool:
        """Whether no call is admitted to it."""
        return bool(self.place.redis.hexists(keys.engine(engine), "fence"))

    def await_phase(self, engine: Engine, *phases: str, within_s: float = WITHIN_S) -> Record:
        """The record of the engine, once it is in one of these phases."""
        found: Record = eventually(
            lambda: (now := self.control(engine)).get("phase") in phases and now,
            within_s=within_s,
        )
        return found

    def await_settled(self, *engines: Engine, within_s: float = WITHIN_S) -> None:
        """Returns when these and no other engines are `ready`, and the others gone or failed, fenced."""

        def settled() -> bool:
            phases = {engine: self.control(engine).get("phase") for engine in Engine}
            up = {engine for engine, phase in phases.items() if phase == "ready" and not self.is_fenced(engine)}
            return up == set(engines) and all(phases[engine] in {"stopped", "failed"} for engine in Engine if engine not in up)

        eventually(settled, within_s=within_s)

    def lead(self, count: int = 1) -> Sequence[Process]:
        """Controllers, of which the first leads; returns when each knows what it is."""
        for number in range(count):
            one, word = self.start_controller(), "controller.stands_by" if number else "controller.leads"
            eventually(lambda: word in one.log_text(), within_s=WITHIN_S)  # noqa: B023 - called at once
        return self.controllers

    def kill(self, controller: Process) -> None:
        """SIGKILL to a controller; returns when it is gone."""
        controller.popen.kill()
        controller.popen.wait()
        self.controllers.remove(controller)

    @contextmanager
    def frozen(self, controller: Process) -> Iterator[None]:
        """A controller that does not run until the block ends."""
        os.killpg(controller.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(controller.pid, signal.SIGCONT)

    @property
    def memory(self) -> Contents:
        """The pool as the file has it."""
        return Contents.model_validate_json(self.pool.read_bytes())

    def engine_pids(self) -> list[int]:
        """The processes of vLLM that hold memory."""
        ours = {os.getpid(), self.place.simulators[Engine.OLLAMA].pid}
        return [one.pid for one in self.memory.holders if one.leaving_since is None and one.pid not in ours]

    def occupy(self, gb: float) -> str:
        """Memory that another program takes; what `free` needs to give it back."""
        return Pool(self.pool).take(gb)

    def free(self, occupied: str) -> None:
        """Give it back."""
        Pool(self.pool).give_back(occupied)

    def answered(self) -> Counter[str]:
        """How often each text was answered, by its digest."""
        return Counter(self.tally.read_text().split() if self.tally.exists() else ())

    def end_engines(self) -> None:
        """SIGKILL to what the controllers started, which outlives them."""
        for pid in self.engine_pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def engine_host(
    folder: Path,
    *,
    queues: Sequence[str] = ("extraction", "chat"),
    vllm: Sequence[str] = (),
    ollama: Sequence[str] = (),
    total_gb: float = TOTAL_GB,
    **settings: Any,
) -> Iterator[EngineHost]:
    """Workers for `queues` on such a host, in mode `ollama`; no controller yet. `vllm`, `ollama`: options of the simulators."""
    pool, tally, port = folder / "pool.json", folder / "tally", process.free_port()
    memory = ("--memory-pool", str(pool), "--memory-total-gb", str(total_gb), "--tally", str(tally))
    options = {engine: (*CALLS, *memory, "--memory-gb", str(size)) for engine, size in SIZES_GB.items()}
    command = [sys.executable, "-m", "aegis_workers.cli", "simulate", "vllm", "--port", str(port), *options[Engine.VLLM], *vllm]
    rules: dict[str, Any] = {
        "llm_engine_mode": "ollama",
        "data_dir": folder / "data",
        "vllm_url": (f"http://127.0.0.1:{port}",),
        "vllm_model": "sim",
        "vllm_driver": "process",
        "vllm_command": shlex.join(command),
        "vllm_memory_gb": SIZES_GB[Engine.VLLM],
        "vllm_limit": 32,
        "ollama_driver": "ollama",
        "ollama_memory_gb": SIZES_GB[Engine.OLLAMA],
        "ollama_limit": 32,
        "memory_source": str(pool),
        "memory_gate_s": 10.0,
        "min_dwell_s": 0.5,
        "drain_s": 10.0,
        "start_timeout_s": 20.0,
    }
    chosen = (*options[Engine.OLLAMA], *ollama)
    with installed(folder, *queues, ollama=chosen, simulated=(Engine.OLLAMA,), **rules | settings) as place:
        host = EngineHost(place, pool=pool, tally=tally)
        try:
            yield host
        finally:
            host.stop_controllers()
            host.end_engines()
