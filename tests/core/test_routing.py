from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_workers import routing
from aegis_workers.routing import Because, Decision, Engine, EngineView, Mode, Policy, Refuse, Run, TaskType, Wait

UP = EngineView(configured=True, up=True)
STARTING = EngineView(configured=True, starting=True)
DOWN = EngineView(configured=True, reason="connection refused")
ABSENT = EngineView(configured=False)

VLLM, OLLAMA = Engine.VLLM, Engine.OLLAMA

# The table of DESIGN.md: mode and task type, to the engines in their order.
VLLM_ELSE_OLLAMA, OLLAMA_ELSE_VLLM, ONLY_VLLM, ONLY_OLLAMA = "vllm ollama", "ollama vllm", "vllm", "ollama"
# One row has an exception: Ollama serves while vLLM starts.
VLLM_BRIDGED = "vllm bridged"
ROWS = {
    (Mode.VLLM, TaskType.EXTRACTION): VLLM_ELSE_OLLAMA,
    (Mode.VLLM, TaskType.CHAT): VLLM_BRIDGED,
    (Mode.VLLM, TaskType.GENERATION): VLLM_BRIDGED,
    (Mode.AUTO, TaskType.EXTRACTION): VLLM_ELSE_OLLAMA,
    (Mode.AUTO, TaskType.CHAT): OLLAMA_ELSE_VLLM,
    (Mode.AUTO, TaskType.GENERATION): OLLAMA_ELSE_VLLM,
    (Mode.OLLAMA, TaskType.EXTRACTION): ONLY_OLLAMA,
    (Mode.OLLAMA, TaskType.CHAT): OLLAMA_ELSE_VLLM,
    (Mode.OLLAMA, TaskType.GENERATION): OLLAMA_ELSE_VLLM,
}

# What a row means. Lines: vLLM up, starting, down, absent; columns: Ollama likewise. V, O: runs there; v, o, vo, ov: waits for
# these, the preferred one first; -: refused.
MEANINGS = {
    VLLM_ELSE_OLLAMA: """
        V  V  V  V
        O  vo vo v
        O  vo vo v
        O  o  o  -
    """,
    OLLAMA_ELSE_VLLM: """
        O  V  V  V
        O  ov ov v
        O  ov ov v
        O  o  o  -
    """,
    VLLM_BRIDGED: """
        V  V  V  V
        O  v  v  v
        v  v  v  v
        -  -  -  -
    """,
    ONLY_VLLM: """
        V  V  V  V
        v  v  v  v
        v  v  v  v
        -  -  -  -
    """,
    ONLY_OLLAMA: """
        O  o  o  -
        O  o  o  -
        O  o  o  -
        O  o  o  -
    """,
}

STATES = {"up": UP, "starting": STARTING, "down": DOWN, "absent": ABSENT}
LETTERS = {"v": VLLM, "o": OLLAMA}


def brief(decision: Decision) -> str:
    match decision:
        case Run():
            return decision.engine[0].upper()
        case Wait():
            return "".join(engine[0] for engine in decision.engines)
        case Refuse():
            return "-"


def meaning(row: str, vllm: str, ollama: str) -> str:
    line, column = list(STATES).index(vllm), list(STATES).index(ollama)
    return MEANINGS[row].strip().splitlines()[line].split()[column]


@pytest.mark.parametrize("ollama", STATES)
@pytest.mark.parametrize("vllm", STATES)
@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize(("mode", "task_type"), ROWS)
def test_the_routing_table(mode: Mode, task_type: TaskType, policy: Policy, vllm: str, ollama: str) -> None:
    row = ROWS[mode, task_type]
    if policy is Policy.HOLD:
        row = row.split()[0]
    decision = routing.decide(task_type, mode, {VLLM: STATES[vllm], OLLAMA: STATES[ollama]}, policy)
    assert brief(decision) == meaning(row, vllm, ollama)
    assert decision.mode is mode


@pytest.mark.parametrize(
    ("vllm", "because"),
    [
        (UP, Because.FIRST_CHOICE),
        (STARTING, Because.FALLBACK_STARTING),
        (DOWN, Because.FALLBACK_DOWN),
        (ABSENT, Because.FALLBACK_NOT_CONFIGURED),
    ],
)
def test_a_run_has_a_word_for_its_reason_that_can_be_counted_by(vllm: EngineView, because: Because) -> None:
    decision = routing.decide(TaskType.EXTRACTION, Mode.AUTO, {VLLM: vllm, OLLAMA: UP}, Policy.DEGRADE)
    assert isinstance(decision, Run)
    assert decision.because is because


def test_a_run_where_the_job_stays_says_so() -> None:
    decision = routing.decide(TaskType.EXTRACTION, Mode.AUTO, {VLLM: UP, OLLAMA: UP}, Policy.DEGRADE, only=VLLM)
    assert isinstance(decision, Run)
    assert decision.because is Because.JOB_STAYS


views = st.builds(
    EngineView, configured=st.booleans(), up=st.booleans(), starting=st.booleans(), reason=st.sampled_from(["", "gone", "asleep"])
)
snapshots = st.fixed_dictionaries({VLLM: views, OLLAMA: views})
task_types, modes, policies = st.sampled_from(TaskType), st.sampled_from(Mode), st.sampled_from(Policy)


def named(decision: Decision) -> tuple[Engine, ...]:
    match decision:
        case Run():
            return (decision.engine,)
        case Wait():
            return decision.engines
        case Refuse():
            return ()


@given(task_types, modes, snapshots, policies)
def test_every_input_has_one_decision_with_a_reason(
    task_type: TaskType, mode: Mode, engines: Mapping[Engine, EngineView], policy: Policy
) -> None:
    decision = routing.decide(task_type, mode, engines, policy)
    assert decision == routing.decide(task_type, mode, dict(reversed(list(engines.items()))), policy)
    assert decision.reason.strip()
    assert decision.mode is mode


@given(task_types, modes, snapshots, policies)
def test_no_decision_names_an_engine_that_is_not_configured_or_not_in_the_row(
    task_type: TaskType, mode: Mode, engines: Mapping[Engine, EngineView], policy: Policy
) -> None:
    for engine in named(routing.decide(task_type, mode, engines, policy)):
        assert engines[engine].configured
        assert engine in routing.allowed(task_type, mode, policy) or bridges(task_type, mode, engines, policy)


def bridges(task_type: TaskType, mode: Mode, engines: Mapping[Engine, EngineView], policy: Policy) -> bool:
    """Whether Ollama serves in the place of a vLLM that starts, though it is not in the row."""
    vllm, ollama = engines[VLLM], engines[OLLAMA]
    starts, serves = vllm.configured and vllm.starting and not vllm.up, ollama.configured and ollama.up
    in_row = OLLAMA in routing.allowed(task_type, mode, policy)
    return starts and serves and not in_row and mode is Mode.VLLM and policy is Policy.DEGRADE


@given(task_types, modes, snapshots)
def test_policy_hold_never_crosses_to_the_other_engine(
    task_type: TaskType, mode: Mode, engines: Mapping[Engine, EngineView]
) -> None:
    first = routing.allowed(task_type, mode, Policy.DEGRADE)[0]
    assert set(named(routing.decide(task_type, mode, engines, Policy.HOLD))) <= {first}


@given(task_types, modes, snapshots, policies)
def test_a_call_runs_exactly_if_an_allowed_engine_is_up(
    task_type: TaskType, mode: Mode, engines: Mapping[Engine, EngineView], policy: Policy
) -> None:
    decision = routing.decide(task_type, mode, engines, policy)
    serving = [e for e in routing.allowed(task_type, mode, policy) if engines[e].configured and engines[e].up]
    serving += [OLLAMA] if bridges(task_type, mode, engines, policy) else []
    assert isinstance(decision, Run) is bool(serving)
    if isinstance(decision, Run):
        assert decision.engine is serving[0]


@given(task_types, modes, snapshots, policies)
def test_a_call_is_refused_only_where_waiting_would_never_end(
    task_type: TaskType, mode: Mode, engines: Mapping[Engine, EngineView], policy: Policy
) -> None:
    decision = routing.decide(task_type, mode, engines, policy)
    hopeless = not any(engines[engine].configured for engine in routing.allowed(task_type, mode, policy))
    assert isinstance(decision, Refuse) is hopeless


@pytest.mark.parametrize(
    ("mode", "task_type", "settings"),
    [
        (Mode.VLLM, TaskType.CHAT, ["AEGIS_VLLM_MODEL"]),
        (Mode.OLLAMA, TaskType.EXTRACTION, ["AEGIS_OLLAMA_MODEL"]),
        (Mode.AUTO, TaskType.EXTRACTION, ["AEGIS_VLLM_MODEL", "AEGIS_OLLAMA_MODEL"]),
    ],
)
def test_a_refusal_names_its_cause_and_its_cure(mode: Mode, task_type: TaskType, settings: list[str]) -> None:
    reason = routing.decide(task_type, mode, {VLLM: ABSENT, OLLAMA: ABSENT}, Policy.DEGRADE).reason
    assert f"mode {mode} serves {task_type} on" in reason
    assert "not configured" in reason
    assert all(setting in reason for setting in settings)
    assert "choose another mode" in reason


def test_a_waiting_call_says_what_each_engine_lacks() -> None:
    reason = routing.decide(TaskType.EXTRACTION, Mode.AUTO, {VLLM: STARTING, OLLAMA: DOWN}, Policy.DEGRADE).reason
    assert reason == "waits for vLLM: starting; waits for Ollama: connection refused"


@pytest.mark.parametrize(
    ("vllm", "words"), [(STARTING, "but starting"), (DOWN, "but connection refused"), (ABSENT, "but not configured")]
)
def test_a_fallback_says_why_the_first_choice_does_not_serve(vllm: EngineView, words: str) -> None:
    reason = routing.decide(TaskType.EXTRACTION, Mode.VLLM, {VLLM: vllm, OLLAMA: UP}, Policy.DEGRADE).reason
    assert words in reason
    assert reason.endswith("fell back to Ollama")


def test_a_chat_runs_on_ollama_while_vllm_starts_and_waits_for_a_vllm_that_does_not() -> None:
    def decision(vllm: EngineView) -> Decision:
        return routing.decide(TaskType.CHAT, Mode.VLLM, {VLLM: vllm, OLLAMA: UP}, Policy.DEGRADE)

    assert decision(STARTING).reason == "vLLM is first for chat in mode vllm but starting; fell back to Ollama"
    assert decision(DOWN).reason == "waits for vLLM: connection refused"
    assert brief(decision(UP)) == "V"


# Where extraction goes whose job stays on one engine. Columns: that engine up, starting, down, absent; the other one is up.
STAYS = {
    (Mode.VLLM, VLLM): "V v v -",
    (Mode.VLLM, OLLAMA): "O o o -",
    (Mode.AUTO, VLLM): "V v v -",
    (Mode.AUTO, OLLAMA): "O o o -",
    (Mode.OLLAMA, VLLM): "v v v -",
    (Mode.OLLAMA, OLLAMA): "O o o -",
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize(("mode", "only"), STAYS)
def test_a_job_that_stays_on_an_engine_goes_nowhere_else(mode: Mode, only: Engine, policy: Policy, state: str) -> None:
    decision = routing.decide(TaskType.EXTRACTION, mode, {only: STATES[state], only.other: UP}, policy, only=only)
    assert brief(decision) == STAYS[mode, only].split()[list(STATES).index(state)]
    assert decision.reason.startswith(f"the job stays on {only.label}")


@given(task_types, modes, snapshots, policies, st.sampled_from(Engine))
def test_every_input_has_one_decision_for_a_job_that_stays_on_an_engine(
    task_type: TaskType, mode: Mode, engines: Mapping[Engine, EngineView], policy: Policy, only: Engine
) -> None:
    decision = routing.decide(task_type, mode, engines, policy, only=only)
    assert set(named(decision)) <= {only}
    assert decision.mode is mode
    serves = only in routing.allowed(task_type, mode, Policy.DEGRADE)
    assert isinstance(decision, Run) is (engines[only].configured and engines[only].up and serves)
    assert isinstance(decision, Refuse) is not engines[only].configured


def test_a_job_that_waits_for_its_engine_says_why() -> None:
    def reason(mode: Mode, vllm: EngineView) -> str:
        return routing.decide(TaskType.EXTRACTION, mode, {VLLM: vllm, OLLAMA: UP}, Policy.DEGRADE, only=VLLM).reason

    assert reason(Mode.AUTO, DOWN) == "the job stays on vLLM and waits for vLLM: connection refused"
    assert reason(Mode.OLLAMA, UP) == "the job stays on vLLM, which mode ollama does not use for extraction"
    assert "set AEGIS_VLLM_MODEL" in reason(Mode.AUTO, ABSENT)
