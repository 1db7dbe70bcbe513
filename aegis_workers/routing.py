"""Which engine a call runs on: the routing table as a pure, total function.

Nothing here reads a clock, a network or the environment. The caller brings a snapshot of the mode and of what each engine is,
and gets back one decision with its reason in words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Engine(StrEnum):
    """A server that completes prompts."""

    VLLM = "vllm"
    OLLAMA = "ollama"

    @property
    def label(self) -> str:
        """The name as its makers write it, for messages to people."""
        return "vLLM" if self is Engine.VLLM else "Ollama"

    @property
    def other(self) -> "Engine":
        """The engine that a fallback would cross to."""
        return Engine.OLLAMA if self is Engine.VLLM else Engine.VLLM


class Mode(StrEnum):
    """The operator's choice, as it stands in the key `aegis:llm_engine_mode`."""

    VLLM = "vllm"
    OLLAMA = "ollama"
    AUTO = "auto"


class TaskType(StrEnum):
    """What a call is for; decides its queue and its row of the routing table."""

    EXTRACTION = "extraction"
    CHAT = "chat"
    GENERATION = "generation"


class Lane(StrEnum):
    """Who waits for whom when slots are short."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


def lane(task_type: TaskType) -> Lane:
    """The line in which calls of this type wait."""
    return Lane.BULK if task_type is TaskType.EXTRACTION else Lane.INTERACTIVE


class Policy(StrEnum):
    """When the first choice is not up, `degrade` crosses to the other engine where the table allows it; `hold` waits."""

    DEGRADE = "degrade"
    HOLD = "hold"


@dataclass(frozen=True, kw_only=True)
class EngineView:
    """What routing needs to know of one engine.

    `configured`: a model is set for it. `up`: it would answer a call now. `starting`: it is on its way to `up`.
    `reason`: why it is not up, in words, for the decision's own reason.
    """

    configured: bool
    up: bool = False
    starting: bool = False
    reason: str = ""


class Because(StrEnum):
    """Why a call runs where it runs, as a word to be counted by; `reason` says it to people.

    The fallbacks tell what the first choice was. `job_stays`: the call's job stays on one engine.
    """

    FIRST_CHOICE = "first_choice"
    FALLBACK_STARTING = "fallback_starting"
    FALLBACK_DOWN = "fallback_down"
    FALLBACK_NOT_CONFIGURED = "fallback_not_configured"
    JOB_STAYS = "job_stays"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The call runs on `engine`, and stays there."""

    engine: Engine
    mode: Mode
    reason: str
    because: Because = Because.FIRST_CHOICE


@dataclass(frozen=True, kw_only=True)
class Wait:
    """No allowed engine is up: the call waits for any of `engines`, the preferred one first."""

    engines: tuple[Engine, ...]
    mode: Mode
    reason: str


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """No allowed engine is configured: waiting would never end, so the call fails at once."""

    mode: Mode
    reason: str


Decision = Run | Wait | Refuse

_VLLM_FIRST = (Engine.VLLM, Engine.OLLAMA)
_OLLAMA_FIRST = (Engine.OLLAMA, Engine.VLLM)

# One row a mode: the engines that serve bulk work and those that serve interactive work, the first choice first.
_BULK: Mapping[Mode, tuple[Engine, ...]] = {
    Mode.VLLM: _VLLM_FIRST,
    Mode.AUTO: _VLLM_FIRST,
    Mode.OLLAMA: (Engine.OLLAMA,),
}
_INTERACTIVE: Mapping[Mode, tuple[Engine, ...]] = {
    Mode.VLLM: (Engine.VLLM,),
    Mode.AUTO: _OLLAMA_FIRST,
    Mode.OLLAMA: _OLLAMA_FIRST,
}


def allowed(task_type: TaskType, mode: Mode, policy: Policy) -> tuple[Engine, ...]:
    """The engines that may serve `task_type`, the first choice first; never empty."""
    row = (_BULK if task_type is TaskType.EXTRACTION else _INTERACTIVE)[mode]
    return row[:1] if policy is Policy.HOLD else row


def decide(
    task_type: TaskType, mode: Mode, engines: Mapping[Engine, EngineView], policy: Policy, *, only: Engine | None = None
) -> Decision:
    """Where a call of `task_type` goes now.

    `engines` holds a view of every engine. `only`: the engine that the call's job stays on. The answer is `Run`, `Wait` or
    `Refuse`, each with a reason for people. Outside of its row a call runs in one case: while vLLM starts, an Ollama that is up
    serves also what mode `vllm` gives to vLLM alone, so that a switch with room for both delays nobody.
    """
    if only is not None:
        return _stay(task_type, mode, only, engines[only])
    row = allowed(task_type, mode, policy)
    usable = tuple(engine for engine in row if engines[engine].configured)
    if not usable:
        return Refuse(mode=mode, reason=_refusal(task_type, mode, row))
    serving = next((engine for engine in usable if engines[engine].up), None) or _bridge(row[0], engines, policy)
    if serving is None:
        return Wait(engines=usable, mode=mode, reason=_waiting(usable, engines))
    reason = _running(task_type, mode, serving, row[0], engines)
    return Run(engine=serving, mode=mode, reason=reason, because=_because(serving, row[0], engines[row[0]]))


def _bridge(first: Engine, engines: Mapping[Engine, EngineView], policy: Policy) -> Engine | None:
    """Who serves while vLLM, the only one of its row, is on its way: Ollama, if it is up and the policy is to cross.

    A start takes minutes and is no failure. Where the engines exclude each other Ollama is fenced by then, so it is not up.
    """
    starts = first is Engine.VLLM and engines[first].starting
    ollama = engines[Engine.OLLAMA]
    return Engine.OLLAMA if starts and policy is Policy.DEGRADE and ollama.configured and ollama.up else None


def _stay(task_type: TaskType, mode: Mode, only: Engine, view: EngineView) -> Decision:
    """Where a call goes whose job stays on one engine: there, in every mode that lets it serve such calls at all.

    The policy has no say: it is about crossing from one engine to another.
    """
    stays = f"the job stays on {only.label}"
    if not view.configured:
        return Refuse(mode=mode, reason=f"{stays}, which is not configured: set AEGIS_{only.upper()}_MODEL, or submit it anew")
    if only not in allowed(task_type, mode, Policy.DEGRADE):
        return Wait(engines=(only,), mode=mode, reason=f"{stays}, which mode {mode} does not use for {task_type}")
    if not view.up:
        return Wait(engines=(only,), mode=mode, reason=f"{stays} and {_waiting((only,), {only: view})}")
    return Run(engine=only, mode=mode, reason=stays, because=Because.JOB_STAYS)


def _refusal(task_type: TaskType, mode: Mode, row: tuple[Engine, ...]) -> str:
    names = " or ".join(engine.label for engine in row)
    settings = " or ".join(f"AEGIS_{engine.upper()}_MODEL" for engine in row)
    return f"mode {mode} serves {task_type} on {names}, which is not configured: set {settings}, or choose another mode"


def _waiting(usable: tuple[Engine, ...], engines: Mapping[Engine, EngineView]) -> str:
    return "; ".join(f"waits for {engine.label}: {_state(engines[engine])}" for engine in usable)


def _running(task_type: TaskType, mode: Mode, serving: Engine, first: Engine, engines: Mapping[Engine, EngineView]) -> str:
    if serving is first:
        return f"mode {mode} prefers {serving.label} for {task_type}"
    why = _state(engines[first]) if engines[first].configured else "not configured"
    return f"{first.label} is first for {task_type} in mode {mode} but {why}; fell back to {serving.label}"


def _because(serving: Engine, first: Engine, view: EngineView) -> Because:
    """`view` is that of the first choice."""
    if serving is first:
        return Because.FIRST_CHOICE
    if not view.configured:
        return Because.FALLBACK_NOT_CONFIGURED
    return Because.FALLBACK_STARTING if view.starting else Because.FALLBACK_DOWN


def _state(view: EngineView) -> str:
    if view.starting:
        return "starting"
    return view.reason or "not up"
