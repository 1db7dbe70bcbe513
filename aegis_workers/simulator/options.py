"""What a simulator is started with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ALWAYS_SERVED = "sim"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a simulator behaves. Raises `ValueError` for values that contradict each other or cannot be.

    `slots`: calls that generate at once (vLLM's max-num-seqs, Ollama's NUM_PARALLEL); the others wait.
    `models`: the names served; `sim` is served as well.
    `call_seconds`: how long a call generates, whatever its length, `call_seconds_cv` the coefficient of variation of a
    log-normal spread around that mean. `tokens_per_s`: instead of it, a speed in all: with n calls running each has an nth
    part of it, so a single call has all of it. With neither, answers come at once.
    `prefill_tokens_per_s`: how fast prompts are read, in all; None reads them at once.
    `start_seconds`: vLLM listens only after that time, Ollama takes it to load a model.
    `queue_bound` (vLLM's max-num-queued-reqs): calls that may run and wait before more are answered 503; None bounds nothing.
    `api_key` (vLLM): the bearer token asked for below `/v1`. `context_tokens`: vLLM's max_model_len, Ollama's default num_ctx.
    `keep_alive_s` (Ollama): how long an idle model stays loaded, negative for ever. `max_queue` (Ollama): calls that may
    wait for a load. `seed`: what every random draw begins from. `record`: keep the last request bodies for
    `GET /_sim/requests`; for tests only, since they hold users' text. `dev_mode` (vLLM): serve `/sleep`, `/pause` and kin.
    `load_tracking` (vLLM): count calls in `GET /load`.
    `memory_pool`: the file of the memory that is shared with other simulators, of which this one takes `memory_gb`: vLLM when it
    starts, Ollama for each model that it loads; it comes back over `memory_return_s`. `memory_total_gb`: how much there is in
    all; None leaves what the file says. `sleep_frees_memory` (vLLM): `/sleep` gives it back, as it does on a GPU.
    `crash_at_start` (vLLM): end with an error where it would begin to listen, always, or `once`: while `crash_marker`, by
    default a file beside the pool, is not there. `tally`: a file that gets a line for each answer, with a digest of the text.
    """

    engine: Literal["vllm", "ollama"]
    host: str = "127.0.0.1"
    port: int = 0
    slots: int = 4
    models: tuple[str, ...] = (ALWAYS_SERVED,)
    call_seconds: float | None = None
    call_seconds_cv: float = 0.0
    tokens_per_s: float | None = None
    prefill_tokens_per_s: float | None = None
    start_seconds: float = 0.0
    queue_bound: int | None = None
    api_key: str | None = None
    context_tokens: int = 8192
    keep_alive_s: float = 300.0
    max_queue: int = 512
    seed: int = 0
    record: bool = False
    dev_mode: bool = False
    load_tracking: bool = False
    memory_pool: Path | None = None
    memory_gb: float | None = None
    memory_total_gb: float | None = None
    memory_return_s: float = 0.0
    sleep_frees_memory: bool = False
    crash_at_start: Literal["once", "always"] | None = None
    crash_marker: Path | None = None
    tally: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what could only be a mistake of the caller."""
        if self.call_seconds is not None and self.tokens_per_s is not None:
            raise ValueError("give call_seconds or tokens_per_s, not both: each alone decides how long a call takes")
        if (self.memory_pool is None) != (self.memory_gb is None):
            raise ValueError("give memory_pool and memory_gb together: what is shared, and how much of it this engine takes")
        if self.crash_at_start == "once" and self.marker is None:
            raise ValueError("give crash_marker, or a memory_pool to lay it beside: a file says that the crash was")
        for name in ("slots", "context_tokens", "tokens_per_s", "prefill_tokens_per_s", "memory_gb", "memory_total_gb"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        for name in ("call_seconds", "call_seconds_cv", "start_seconds", "queue_bound", "max_queue", "memory_return_s"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")

    @property
    def served(self) -> tuple[str, ...]:
        """Every model name served, each once."""
        return tuple(dict.fromkeys((*self.models, ALWAYS_SERVED)))

    @property
    def marker(self) -> Path | None:
        """The file that says that the one crash was; None where no place for it was given."""
        if self.crash_marker is None and self.memory_pool is not None:
            return self.memory_pool.with_name(f"{self.memory_pool.name}.crashed")
        return self.crash_marker
