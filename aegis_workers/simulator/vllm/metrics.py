"""vLLM's `GET /metrics`, with the names of today and the ones that mean something for a simulator."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from aegis_workers.simulator.answer import Answer
from aegis_workers.simulator.options import Options
from aegis_workers.simulator.stats import Stats

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"

_BUCKETS_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
_Labels = tuple[tuple[str, str], ...]

_FINISHES = ("stop", "length", "abort", "error", "repetition")


@dataclass(kw_only=True)
class Histogram:
    """Seconds, counted by upper bound."""

    counts: list[int] = field(default_factory=lambda: [0] * len(_BUCKETS_S))
    total: int = 0
    sum_s: float = 0.0

    def observe(self, value_s: float) -> None:
        """Count one value."""
        self.total += 1
        self.sum_s += value_s
        for index, bound_s in enumerate(_BUCKETS_S):
            self.counts[index] += value_s <= bound_s


@dataclass(kw_only=True)
class Metrics:
    """What the engine counted since its start."""

    options: Options
    stats: Stats
    finished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_FINISHES, 0))
    prompt_tokens: int = 0
    generation_tokens: int = 0
    rejections: int = 0
    latency: Histogram = field(default_factory=Histogram)

    def count_answer(self, prompt_tokens: int, answer: Answer, duration_s: float) -> None:
        """An answer ended. One whose client closed the connection is counted nowhere, as in vLLM."""
        self.finished[answer.finish] = self.finished.get(answer.finish, 0) + 1
        self.prompt_tokens += prompt_tokens
        self.generation_tokens += answer.tokens
        self.latency.observe(duration_s)

    def count_rejection(self) -> None:
        """A call was turned away because too many wait."""
        self.rejections += 1

    def expose(self, *, asleep: bool) -> str:
        """All metrics in the text format of Prometheus."""
        return "\n".join((*self._gauges(asleep=asleep), *self._counters(), *self._histogram())) + "\n"

    def _gauges(self, *, asleep: bool) -> Iterator[str]:
        waiting = self.stats.waiting
        usage = min(1.0, self.stats.running / self.options.slots)
        yield from self._family("vllm:num_requests_running", "gauge", [((), self.stats.running)])
        yield from self._family("vllm:num_requests_waiting", "gauge", [((), waiting)])
        by_reason = [((("reason", "capacity"),), waiting), ((("reason", "deferred"),), 0)]
        yield from self._family("vllm:num_requests_waiting_by_reason", "gauge", by_reason)
        yield from self._family("vllm:kv_cache_usage_perc", "gauge", [((), usage)])
        states = {"awake": not asleep, "weights_offloaded": asleep, "discard_all": False}
        by_state = [((("sleep_state", name),), holds) for name, holds in states.items()]
        yield from self._family("vllm:engine_sleep_state", "gauge", by_state)

    def _counters(self) -> Iterator[str]:
        by_finish = [((("finished_reason", name),), count) for name, count in self.finished.items()]
        yield from self._family("vllm:request_success_total", "counter", by_finish)
        yield from self._family("vllm:prompt_tokens_total", "counter", [((), self.prompt_tokens)])
        yield from self._family("vllm:generation_tokens_total", "counter", [((), self.generation_tokens)])
        yield from self._family("vllm:num_preemptions_total", "counter", [((), 0)])
        # Its label, and with it the line, is there from the first rejection on.
        rejected = [((("reason", "max_num_queued_reqs"),), self.rejections)] if self.rejections else []
        yield from self._family("vllm:admission_rejections_total", "counter", rejected)

    def _histogram(self) -> Iterator[str]:
        name = "vllm:e2e_request_latency_seconds"
        yield f"# TYPE {name} histogram"
        bounds = (*(str(bound_s) for bound_s in _BUCKETS_S), "+Inf")
        for bound, count in zip(bounds, (*self.latency.counts, self.latency.total), strict=True):
            yield self._sample(f"{name}_bucket", (("le", bound),), count)
        yield self._sample(f"{name}_count", (), self.latency.total)
        yield self._sample(f"{name}_sum", (), self.latency.sum_s)

    def _family(self, name: str, kind: str, values: Iterable[tuple[_Labels, float]]) -> Iterator[str]:
        yield f"# TYPE {name} {kind}"
        for labels, value in values:
            yield self._sample(name, labels, value)

    def _sample(self, name: str, labels: _Labels, value: float) -> str:
        every = (("engine", "0"), *labels, ("model_name", self.options.served[0]))
        text = ",".join(f'{key}="{label}"' for key, label in every)
        return f"{name}{{{text}}} {float(value)}"
