"""A real vLLM on the CPU: a child that can be killed in several ways, and started again on its port."""

import asyncio
import contextlib
import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aegis_workers.local import process
from aegis_workers.local.process import Process

HOME = Path(__file__).parents[2] / ".venv-vllm"
# The name that simulators serve too, so that both can be asked the same.
MODEL = "sim"
CONTEXT_TOKENS = 8192
SLOTS = 32
START_TIMEOUT_S = 240.0
STOP_GRACE_S = 10.0
WAIT_S = 60.0
# The options of the server that most tests share, in developer mode. Without whitespace, on which random weights can loop.
COMPACT = '{"backend": "guidance", "disable_any_whitespace": true}'
OPEN = ("--scheduling-policy", "priority", "--enable-server-load-tracking", "--structured-outputs-config", COMPACT)
# The options of the other one: with a key, a bound of its queue, and the default policy.
API_KEY = "secret"
QUEUE_BOUND = 6
GUARDED = ("--api-key", API_KEY, "--max-num-queued-reqs", str(QUEUE_BOUND))

_OPTIONS = {
    "--host": "127.0.0.1",
    "--model": str(HOME / "model"),
    "--served-model-name": MODEL,
    "--dtype": "bfloat16",
    "--max-model-len": str(CONTEXT_TOKENS),
    "--max-num-seqs": str(SLOTS),
    "--num-gpu-blocks-override": "128",
}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CACHE_ROOT": str(HOME / "cache"),
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
# Linux keeps 15 characters of a process's name.
_ENGINE_CORE = "VLLM::EngineCor"
# The engine's own processes pass work to each other by spinning on `sched_yield`. What shared a processor with them was seen to
# stand still for up to 70 s while they generated (Linux 6.18, two processors): they get one of their own where there are several.
_PROCESSORS = sorted(os.sched_getaffinity(0))
SPINNING = _PROCESSORS[:1]
OTHERS = _PROCESSORS[1:] or _PROCESSORS


@dataclass(kw_only=True)
class Server:
    """One vLLM, running or not. It leads a process group: the engine's own processes are in it and outlive a killed server."""

    folder: Path
    options: Sequence[str] = ()
    dev_mode: bool = False
    port: int = field(default_factory=process.free_port)
    starts_s: list[float] = field(default_factory=list)
    child: Process | None = None

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "Server":
        """Start it, unless it answers; returns when it does."""
        if not self.is_healthy():
            self.kill()
            began = time.monotonic()
            self.child = self._launch()
            self.child.wait_ready(self.is_healthy, START_TIMEOUT_S)
            self._set_apart()
            self.starts_s.append(time.monotonic() - began)
        return self

    def command(self) -> list[str]:
        """What starts it, in `ENVIRONMENT`."""
        command = [str(HOME / "bin/python"), "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
        return [*command, "--port", str(self.port), *(part for option in _OPTIONS.items() for part in option), *self.options]

    def _launch(self) -> Process:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AEGIS_", "PYTHON", "VLLM_"))}
        env = inherited | ENVIRONMENT | {"VLLM_SERVER_DEV_MODE": str(int(self.dev_mode))}
        return process.start("vLLM", self.command(), log=self.folder / f"vllm-{self.port}.log", env=env)

    def _set_apart(self) -> None:
        assert self.child is not None
        for pid in _group(self.child.pid):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), OTHERS if pid == self.child.pid else SPINNING)

    def is_healthy(self) -> bool:
        """Whether `/health` says so."""
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:  # noqa: S310 - loopback
            return bool(response.status == 200)
        return False

    @property
    def version(self) -> str:
        """The engine's own version."""
        with urllib.request.urlopen(f"{self.url}/version", timeout=5) as response:  # noqa: S310 - loopback
            return str(json.load(response)["version"])

    def count(self, metric: str, *, where_absent: int | None = None) -> int:
        """The sum of a metric over its labels. `metric` is its whole name; some have no line before their first event."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as response:  # noqa: S310 - loopback
            values = re.findall(rf"^{re.escape(metric)}(?:{{[^}}]*}})? (\S+)", response.read().decode(), re.MULTILINE)
        if not values and where_absent is not None:
            return where_absent
        assert values, f"the engine has no metric {metric}"
        return round(sum(map(float, values)))

    def in_flight(self) -> int:
        """Calls that the engine has, running and waiting, by its own count."""
        return self.count("vllm:num_requests_running") + self.count("vllm:num_requests_waiting")

    async def has_in_flight(self, calls: int) -> None:
        """Returns when the engine has exactly so many calls, by its own count."""
        await self._has(lambda found: found == calls)

    async def has_at_least(self, calls: int) -> None:
        """Returns when the engine has so many calls or more, by its own count."""
        await self._has(lambda found: found >= calls)

    async def has_generated(self, tokens: int) -> None:
        """Returns when the engine has generated so many tokens more, by its own count."""
        before = self.count("vllm:generation_tokens_total")
        await self._has(lambda found: found >= before + tokens, lambda: self.count("vllm:generation_tokens_total"))

    async def _has(self, enough: Callable[[int], bool], count: Callable[[], int] | None = None) -> None:
        async with asyncio.timeout(WAIT_S):
            while not enough(await asyncio.to_thread(count or self.in_flight)):  # noqa: ASYNC110 - the engine has no event for it
                await asyncio.sleep(0.01)

    def terminate(self) -> None:
        """SIGTERM to the server alone, as a supervisor sends it."""
        assert self.child is not None
        self.child.popen.terminate()

    def kill_engine_core(self) -> None:
        """SIGKILL to the process that generates.

        The server notices and closes its port, but with many calls in hand it may wait for its own background tasks
        without end (seen with vLLM 0.32): `start` kills what is left of it.
        """
        self._signal_engine_core(signal.SIGKILL)

    def terminate_engine_core(self) -> None:
        """SIGTERM to the process that generates: the first half of what a supervisor does that signals a whole group."""
        self._signal_engine_core(signal.SIGTERM)

    def _signal_engine_core(self, number: signal.Signals) -> None:
        assert self.child is not None
        (core,) = (pid for pid in _group(self.child.pid) if _name(pid) == _ENGINE_CORE)
        os.kill(core, number)

    def await_end(self) -> int:
        """Returns its exit status once it has ended by itself."""
        assert self.child is not None
        return self.child.popen.wait(WAIT_S)

    def kill(self) -> None:
        """SIGKILL to all its processes at once, as when the machine's memory runs out; returns when it is gone."""
        if self.child is not None:
            _kill_group(self.child.pid)
            self.child.popen.wait()

    def stop(self) -> None:
        """End it in order, and what it left behind."""
        if self.child is not None:
            process.stop([self.child], STOP_GRACE_S)
            _kill_group(self.child.pid)


@contextmanager
def running(folder: Path, *options: str, dev_mode: bool = False) -> Iterator[Server]:
    """A server with further `options` of its command line, stopped at the end."""
    server = Server(folder=folder, options=options, dev_mode=dev_mode)
    try:
        yield server.start()
    finally:
        server.stop()


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _group(leader: int) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(int(folder.name)) == leader:
                yield int(folder.name)


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
