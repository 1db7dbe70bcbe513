import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aegis_workers import forms, origins, profiles
from aegis_workers import settings as settings_module
from aegis_workers.errors import ConfigurationError
from aegis_workers.origins import Origin
from aegis_workers.profiles import Profile
from aegis_workers.routing import Engine, Mode, Policy
from aegis_workers.settings import Settings

BY_CONTRACT = {"LLM_ENGINE_MODE", "DEPLOYMENT_PROFILE"}
NAMES = {str(field.alias): attribute for attribute, field in Settings.model_fields.items()}

# The names and defaults that DESIGN.md promises.
DEFAULTS: dict[str, Any] = {
    "DEPLOYMENT_PROFILE": None,
    "LLM_ENGINE_MODE": Mode.AUTO,
    "AEGIS_REDIS_URL": "redis://localhost:6379/0",
    "AEGIS_VLLM_URL": ("http://localhost:8000",),
    "AEGIS_OLLAMA_URL": ("http://localhost:11434",),
    "AEGIS_VLLM_MODEL": None,
    "AEGIS_OLLAMA_MODEL": None,
    "AEGIS_VLLM_API_KEY": None,
    "AEGIS_VLLM_LIMIT": 256,
    "AEGIS_OLLAMA_LIMIT": 4,
    "AEGIS_FALLBACK": Policy.DEGRADE,
    "AEGIS_MEMORY_BUDGET_GB": None,
    "AEGIS_VLLM_MEMORY_GB": 40.7,
    "AEGIS_OLLAMA_MEMORY_GB": 24.0,
    "AEGIS_CALL_TIMEOUT_S": 120.0,
    "AEGIS_CHAT_DEADLINE_S": 300.0,
    "AEGIS_EXTRACTION_DEADLINE_S": 3600.0,
    "AEGIS_SHUTDOWN_GRACE_S": 30.0,
}

DEFAULTS |= {
    "AEGIS_VLLM_DRIVER": "external",
    "AEGIS_OLLAMA_DRIVER": "external",
    "AEGIS_VLLM_COMMAND": None,
    "AEGIS_VLLM_CONTAINER": None,
    "AEGIS_VLLM_ON_DEMAND": False,
    "AEGIS_VLLM_IDLE_S": 600.0,
    "AEGIS_DRAIN_S": 120.0,
    "AEGIS_DRAIN_THEN": "close",
    "AEGIS_MEMORY_GATE_S": 120.0,
    "AEGIS_START_TIMEOUT_S": 900.0,
    "AEGIS_MIN_DWELL_S": 10.0,
    "AEGIS_MEMORY_SOURCE": "auto",
}

PROFILES = {
    "chat_only": Mode.OLLAMA,
    "pharma": Mode.OLLAMA,
    "law_firm": Mode.OLLAMA,
    "engineering": Mode.AUTO,
    "enterprise_ingestion": Mode.VLLM,
}


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper() in NAMES]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def load() -> Settings:
    settings_module.load.cache_clear()
    try:
        return settings_module.load()
    finally:
        settings_module.load.cache_clear()


def refusal() -> str:
    with pytest.raises(ConfigurationError) as caught:
        load()
    return str(caught.value)


def shown() -> dict[str, tuple[str, Origin]]:
    return {setting.name: (setting.value, setting.origin) for setting in origins.explain(load())}


def test_every_name_begins_with_aegis_but_the_two_by_contract() -> None:
    assert {name for name in NAMES if not name.startswith("AEGIS_")} == BY_CONTRACT
    assert all(name == name.upper() for name in NAMES)


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_promised_names_have_their_defaults(name: str) -> None:
    assert getattr(load(), NAMES[name]) == DEFAULTS[name]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_chooses_the_mode(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYMENT_PROFILE", f" {profile.upper()} ")
    assert load().llm_engine_mode is PROFILES[profile]
    assert shown()["LLM_ENGINE_MODE"] == (PROFILES[profile].value, Origin.PROFILE)


def test_every_profile_has_a_mode() -> None:
    assert set(PROFILES) == set(Profile) == set(profiles.CHOSEN)


def test_a_profile_chooses_several_defaults_and_each_can_be_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYMENT_PROFILE", "engineering")
    assert (load().llm_engine_mode, load().vllm_on_demand) == (Mode.AUTO, True)
    assert shown()["AEGIS_VLLM_ON_DEMAND"] == ("True", Origin.PROFILE)
    monkeypatch.setenv("AEGIS_VLLM_ON_DEMAND", "false")
    assert (load().llm_engine_mode, load().vllm_on_demand) == (Mode.AUTO, False)
    assert shown()["AEGIS_VLLM_ON_DEMAND"] == ("False", Origin.ENVIRONMENT)


@pytest.mark.parametrize("profile", Profile)
def test_of_every_value_that_a_profile_chooses_it_is_shown_and_what_is_set_wins(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYMENT_PROFILE", profile)
    chosen = {alias: str(value) for alias, value in profiles.CHOSEN[profile].items()}
    assert {alias: shown()[alias] for alias in chosen} == {alias: (value, Origin.PROFILE) for alias, value in chosen.items()}
    others = {
        "LLM_ENGINE_MODE": "vllm" if chosen["LLM_ENGINE_MODE"] == "ollama" else "ollama",
        "AEGIS_FALLBACK": "hold",
        "AEGIS_DRAIN_THEN": "close" if chosen["AEGIS_DRAIN_THEN"] == "wait" else "wait",
        "AEGIS_VLLM_DRIVER": "docker",
        "AEGIS_OLLAMA_DRIVER": "ollama",
        "AEGIS_VLLM_ON_DEMAND": str(chosen["AEGIS_VLLM_ON_DEMAND"] == "False"),
    }
    monkeypatch.setenv("AEGIS_VLLM_CONTAINER", "vllm")
    for alias, value in others.items():
        monkeypatch.setenv(alias, value)
    assert {alias: shown()[alias] for alias in chosen} == {alias: (value, Origin.ENVIRONMENT) for alias, value in others.items()}


def test_a_profile_given_in_code_chooses_too_and_a_value_given_there_wins() -> None:
    assert Settings(_env_file=None, deployment_profile="chat_only").llm_engine_mode is Mode.OLLAMA
    assert Settings(_env_file=None, deployment_profile="chat_only", llm_engine_mode="vllm").llm_engine_mode is Mode.VLLM


def test_a_reason_names_what_chose_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert origins.chosen_by(load(), "LLM_ENGINE_MODE") == "default"
    monkeypatch.setenv("DEPLOYMENT_PROFILE", "chat_only")
    assert origins.chosen_by(load(), "LLM_ENGINE_MODE") == "PROFILE=chat_only"
    assert origins.chosen_by(load(), "AEGIS_VLLM_ON_DEMAND") == "PROFILE=chat_only"
    assert origins.chosen_by(load(), "AEGIS_DRAIN_S") == "default"
    (tmp_path / ".env").write_text("LLM_ENGINE_MODE=vllm\n")
    assert origins.chosen_by(load(), "LLM_ENGINE_MODE") == "LLM_ENGINE_MODE"
    monkeypatch.setenv("AEGIS_VLLM_ON_DEMAND", "true")
    assert origins.chosen_by(load(), "AEGIS_VLLM_ON_DEMAND") == "AEGIS_VLLM_ON_DEMAND"


@pytest.mark.parametrize("where", ["environment", "file"])
def test_the_engine_mode_wins_over_the_profile_wherever_each_is_set(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"LLM_ENGINE_MODE": "vllm", "DEPLOYMENT_PROFILE": "chat_only"}
    in_file = names.pop("LLM_ENGINE_MODE" if where == "file" else "DEPLOYMENT_PROFILE")
    (tmp_path / ".env").write_text(f"{'LLM_ENGINE_MODE' if where == 'file' else 'DEPLOYMENT_PROFILE'}={in_file}\n")
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert load().llm_engine_mode is Mode.VLLM
    assert shown()["LLM_ENGINE_MODE"][1].value == where


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("AEGIS_VLLM_LIMIT=7\nAEGIS_OLLAMA_LIMIT=7\nOTHER_PROGRAM=x\n")
    monkeypatch.setenv("AEGIS_VLLM_LIMIT", "9")
    settings = load()
    assert (settings.limit(Engine.VLLM), settings.limit(Engine.OLLAMA)) == (9, 7)
    found = shown()
    assert found["AEGIS_VLLM_LIMIT"] == ("9", Origin.ENVIRONMENT)
    assert found["AEGIS_OLLAMA_LIMIT"] == ("7", Origin.FILE)
    assert found["AEGIS_FALLBACK"] == ("degrade", Origin.DEFAULT)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_variable_is_no_value(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(f"{name}=\n")
    monkeypatch.setenv(name, "")
    assert load() == Settings(_env_file=None)
    assert shown()[name][1] is Origin.DEFAULT


def test_an_empty_variable_does_not_hide_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("AEGIS_VLLM_MODEL=from-file\n")
    monkeypatch.setenv("AEGIS_VLLM_MODEL", "")
    assert load().vllm_model == "from-file"
    assert shown()["AEGIS_VLLM_MODEL"] == ("from-file", Origin.FILE)


def test_a_blank_model_leaves_its_engine_unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIS_VLLM_MODEL", "  ")
    assert load().model(Engine.VLLM) is None


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(load(), NAMES["AEGIS_VLLM_LIMIT"], 1)


def test_several_replicas_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIS_VLLM_URL", " http://a:8000/ , https://b/prefix,")
    assert load().urls(Engine.VLLM) == ("http://a:8000", "https://b/prefix")
    assert shown()["AEGIS_VLLM_URL"][0] == "http://a:8000, https://b/prefix"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("LLM_ENGINE_MODE", "both", "'vllm', 'ollama' or 'auto'"),
        ("DEPLOYMENT_PROFILE", "nasa", "'chat_only', 'pharma', 'law_firm', 'engineering' or 'enterprise_ingestion'"),
        ("AEGIS_FALLBACK", "retry", "'degrade' or 'hold'"),
        ("AEGIS_LOG_FORMAT", "xml", "'auto', 'json' or 'console'"),
        ("AEGIS_VLLM_LIMIT", "0", "greater than or equal to 1"),
        ("AEGIS_VLLM_LIMIT", "-1", "greater than or equal to 1"),
        ("AEGIS_VLLM_LIMIT", "many", "integer"),
        ("AEGIS_OLLAMA_LIMIT", "0", "greater than or equal to 1"),
        ("AEGIS_OLLAMA_LIMIT", "-4", "greater than or equal to 1"),
        ("AEGIS_WORKER_THREADS", "0", "greater than or equal to 1"),
        ("AEGIS_SHUTDOWN_GRACE_S", "-1", "greater than or equal to 0"),
        ("AEGIS_WATCHDOG_S", "0", "greater than or equal to 1"),
        ("AEGIS_WATCHDOG_S", "-60", "greater than or equal to 1"),
        ("AEGIS_WATCHDOG_S", "inf", "finite number"),
        ("AEGIS_CALL_TIMEOUT_S", "0", "greater than 0"),
        ("AEGIS_CALL_TIMEOUT_S", "inf", "finite number"),
        ("AEGIS_VLLM_MEMORY_GB", "nan", "finite number"),
        ("AEGIS_OLLAMA_KEEP_ALIVE", "5 minutes", "number and a unit, such as 30m"),
        ("AEGIS_VLLM_DRIVER", "ollama", "'external', 'process' or 'docker'"),
        ("AEGIS_OLLAMA_DRIVER", "process", "'external' or 'ollama'"),
        ("AEGIS_VLLM_COMMAND", "vllm serve 'model", "write a command as in a shell"),
        ("AEGIS_VLLM_ON_DEMAND", "perhaps", "boolean"),
        ("AEGIS_DRAIN_THEN", "kill", "'close' or 'wait'"),
        ("AEGIS_DRAIN_S", "-1", "greater than or equal to 0"),
        ("AEGIS_START_TIMEOUT_S", "0", "greater than 0"),
        ("AEGIS_MEMORY_SOURCE", "gpu", "auto, nvml, meminfo, or the path of a JSON file"),
        ("AEGIS_MEMORY_SOURCE", "/", "auto, nvml, meminfo, or the path of a JSON file"),
        ("AEGIS_VLLM_URL", "localhost:8000", "http://host:port"),
        ("AEGIS_VLLM_URL", "http://[::1", "http://host:port"),
        ("AEGIS_OLLAMA_URL", ",", "http://host:port"),
        ("AEGIS_REDIS_URL", "localhost", "redis://host:port/db"),
        ("AEGIS_REDIS_URL", "http://[::1", "redis://host:port/db"),
        ("AEGIS_REDIS_URL", "redis+cluster://host", "Redis Cluster is not supported"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_the_value_and_what_is_allowed(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    message = refusal()
    assert message.startswith(f"{name}={value}: ")
    assert words in message


def test_a_health_folder_is_the_same_for_a_child_that_runs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIS_HEALTH_DIR", "run/health")
    assert load().health_dir == tmp_path / "run" / "health"
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("AEGIS_HEALTH_DIR", "~/health")
    assert shown()["AEGIS_HEALTH_DIR"] == ("/home/ada/health", Origin.ENVIRONMENT)


def test_a_memory_source_is_a_word_or_a_file_that_a_child_elsewhere_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_MEMORY_SOURCE", " Meminfo ")
    assert load().memory_source == "meminfo"
    monkeypatch.setenv("AEGIS_MEMORY_SOURCE", "./pool.json")
    assert load().memory_source == str(tmp_path / "pool.json")


@pytest.mark.parametrize(
    ("driver", "missing"), [("process", "AEGIS_VLLM_COMMAND, such as vllm serve"), ("docker", "AEGIS_VLLM_CONTAINER: the name")]
)
def test_a_driver_without_what_it_needs_is_refused(driver: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIS_VLLM_DRIVER", driver)
    assert refusal().startswith(f"AEGIS_VLLM_DRIVER={driver} needs {missing}")
    monkeypatch.setenv(missing.partition(",")[0].partition(":")[0], "something")
    assert load().driver(Engine.VLLM) == driver


def test_an_authority_of_certificates_is_refused_where_redis_is_not_reached_with_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = tmp_path / "authority.pem"
    authority.touch()
    monkeypatch.setenv("AEGIS_REDIS_CA", str(authority))
    assert refusal() == f"AEGIS_REDIS_CA={authority} is for TLS, which AEGIS_REDIS_URL does not ask for: write rediss:// there"
    monkeypatch.setenv("AEGIS_REDIS_URL", "rediss://host")
    assert load().redis_address.tls == {"ssl_cert_reqs": "required", "ssl_ca_certs": str(authority)}


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIS_VLLM_LIMIT", "0")
    monkeypatch.setenv("AEGIS_FALLBACK", "retry")
    assert len(refusal().splitlines()) == 2


def test_an_overlap_that_would_not_advance_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIS_CHUNK_TOKENS", "100")
    monkeypatch.setenv("AEGIS_CHUNK_OVERLAP_TOKENS", "51")
    assert refusal() == "AEGIS_CHUNK_OVERLAP_TOKENS=51 is more than half of AEGIS_CHUNK_TOKENS=100"


SECRET = "hunter2"  # noqa: S105 - planted


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AEGIS_VLLM_API_KEY", SECRET),
        ("AEGIS_FLOWER_AUTH", f"admin:{SECRET}"),
        ("AEGIS_VLLM_COMMAND", f"vllm serve m --api-key {SECRET} --port 1"),
        ("AEGIS_VLLM_COMMAND", f"vllm serve m --api-key='{SECRET} more'"),
        ("AEGIS_VLLM_COMMAND", f"vllm serve m --api-key first {SECRET} --port 1"),
        ("AEGIS_VLLM_COMMAND", f"env HF_TOKEN={SECRET} vllm serve m"),
        ("AEGIS_VLLM_COMMAND", f"vllm serve m --hf-token {SECRET}"),
        ("AEGIS_ADMIN_TOKEN", SECRET),
        ("AEGIS_REDIS_SENTINEL_PASSWORD", SECRET),
        ("AEGIS_REDIS_URL", f"sentinel://one;sentinel://:{SECRET}@two/0"),
        ("AEGIS_REDIS_URL", f"redis://:{SECRET}@host:6379/0"),
        ("AEGIS_REDIS_URL", f"rediss://user:{SECRET}@host"),
        ("AEGIS_REDIS_URL", f"redis://host/0?password={SECRET}"),
        ("AEGIS_VLLM_URL", f"http://user:{SECRET}@one, http://two"),
        ("AEGIS_OLLAMA_URL", f"https://user:{SECRET}@one/prefix"),
    ],
)
def test_a_secret_is_shown_nowhere(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert SECRET not in repr(load()) + str(load()) + repr(origins.explain(load()))
    assert "***" in shown()[name][0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AEGIS_REDIS_URL", f"http://user:{SECRET}@host"),
        ("AEGIS_REDIS_URL", f"user:{SECRET}@host:6379"),
        ("AEGIS_REDIS_URL", f"http://:a/{SECRET}@host"),
        ("AEGIS_REDIS_URL", f"http://:a@{SECRET}@host"),
        ("AEGIS_REDIS_URL", f"http://:{SECRET}@[::1"),
        ("AEGIS_VLLM_URL", f"ftp://user:{SECRET}@host"),
        ("AEGIS_VLLM_URL", f"http://fine, user:{SECRET}@host"),
        ("AEGIS_VLLM_URL", f"http://user:{SECRET}@[::1"),
    ],
)
def test_a_bad_value_that_holds_a_password_is_refused_without_it(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    message = refusal()
    assert message.startswith(name)
    assert SECRET not in message


@given(
    st.text(st.characters(categories=["L", "N"]), max_size=5),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=3).filter(lambda word: "*" not in word),
)
def test_a_password_never_stays_in_an_address(user: str, password: str) -> None:
    marked = f"§{password}§"
    masked = forms.without_password(f"redis://{user}:{marked}@host:6379/0")
    assert marked not in masked
    assert masked.startswith(f"redis://{user}:***")
    assert masked.endswith("@host:6379/0")


@pytest.mark.parametrize("text", ["redis://localhost:6379/0", "http://[::1]:8000/v1", "unix:///run/redis.sock", "llama3:8b", ""])
def test_an_address_without_a_password_is_shown_as_it_is(text: str) -> None:
    assert forms.without_password(text) == text


@pytest.mark.parametrize(("budget_gb", "fits"), [(None, False), (64.6, False), (64.7, True), (128.0, True)])
def test_there_is_room_for_both_engines_only_where_a_budget_says_so(
    budget_gb: float | None,
    fits: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    assert Settings(_env_file=None, memory_budget_gb=budget_gb).has_room_for_both() is fits
