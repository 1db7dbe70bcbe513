import pytest

from aegis_workers.local import environment
from aegis_workers.routing import Mode
from aegis_workers.settings import Settings


def in_environment(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_children_have_the_settings_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = in_environment(
        monkeypatch,
        {
            "AEGIS_REDIS_URL": "redis://:secret@somewhere:1/2",
            "AEGIS_VLLM_URL": "http://a:1, http://b:2",
            "AEGIS_VLLM_MODEL": "m",
            "AEGIS_VLLM_API_KEY": "key",
            "AEGIS_CHUNK_TOKENS": "400",
            "DEPLOYMENT_PROFILE": "pharma",
        },
    )
    for name, value in environment.of(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_what_was_changed_here_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = in_environment(monkeypatch, {"AEGIS_OLLAMA_MODEL": "m", "LLM_ENGINE_MODE": "vllm"})
    changed = settings.model_copy(update={"ollama_model": None, "llm_engine_mode": Mode.OLLAMA})
    given = environment.of(changed)
    assert "AEGIS_OLLAMA_MODEL" not in given
    assert given["LLM_ENGINE_MODE"] == "ollama"


def test_what_the_profile_chose_is_not_said_as_if_somebody_had_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment.of(in_environment(monkeypatch, {"DEPLOYMENT_PROFILE": "engineering"}))
    assert given["DEPLOYMENT_PROFILE"] == "engineering"
    assert not {"LLM_ENGINE_MODE", "AEGIS_VLLM_ON_DEMAND", "AEGIS_FALLBACK"} & set(given)


def test_a_default_that_overrides_the_profile_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = in_environment(monkeypatch, {"DEPLOYMENT_PROFILE": "chat_only", "LLM_ENGINE_MODE": "auto"})
    assert environment.of(settings)["LLM_ENGINE_MODE"] == "auto"


def test_a_setting_in_small_letters_does_not_travel_beside_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = in_environment(monkeypatch, {"aegis_ollama_model": "m"})
    given = environment.of(settings)
    assert given["AEGIS_OLLAMA_MODEL"] == "m"
    assert "aegis_ollama_model" not in given


def test_the_rest_of_the_environment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/certificates")
    assert environment.of(Settings())["SSL_CERT_FILE"] == "/certificates"
