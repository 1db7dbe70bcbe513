"""What `compose/` says of the settings, against the settings."""

import json
import re
import subprocess
from pathlib import Path

import readme
from test_tables import shown_default

from aegis_workers.routing import Engine
from aegis_workers.settings import Settings

FOLDER = readme.ROOT / "compose"
EXAMPLE = (FOLDER / ".env.example").read_text(encoding="utf-8")
COMPOSE = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
DEFAULTS = {str(field.alias): shown_default(field.default).strip("`") for field in Settings.model_fields.values()}
# Where these processes have another default in containers than elsewhere.
CHANGED = {
    *("AEGIS_VLLM_URL", "AEGIS_VLLM_MODEL", "AEGIS_OLLAMA_URL", "AEGIS_OLLAMA_MODEL"),
    *("AEGIS_MEMORY_BUDGET_GB", "AEGIS_MEMORY_SOURCE", "AEGIS_ADMIN_TOKEN", "AEGIS_FLOWER_AUTH"),
}
SECRETS = {"REDIS_PASSWORD", "AEGIS_ADMIN_TOKEN", "AEGIS_FLOWER_AUTH"}


def lines(prefix: str) -> dict[str, str]:
    """Names and values of the lines that begin with `prefix` and a name."""
    return dict(re.findall(rf"^{prefix}([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE, re.MULTILINE))


def test_the_example_has_every_setting_with_its_default() -> None:
    shown, changed = lines("#"), lines("")
    for name, default in DEFAULTS.items():
        value = "" if default == "not set" else default
        assert name in shown or name in changed, f"compose/.env.example lacks {name}: explain it there, and add #{name}={value}"
        assert name in CHANGED or shown.get(name) == value, f"compose/.env.example: #{name}={value}"
    assert set(changed) >= CHANGED


def test_the_example_names_nothing_that_nobody_reads() -> None:
    for name in {**lines("#"), **lines("")}:
        assert name in DEFAULTS or f"${{{name}" in COMPOSE or name.startswith(("COMPOSE_", "DOCKER_GID")), name


def test_defaults_of_the_compose_file_are_those_of_the_example() -> None:
    shown = lines("#") | lines("")
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE):
        assert shown[name] in {default, ""} or name in CHANGED, name


def test_every_line_of_the_example_is_explained() -> None:
    for before, line in zip(EXAMPLE.splitlines(), EXAMPLE.splitlines()[1:], strict=False):
        if re.match(r"#?[A-Z][A-Z0-9_]*=", line):
            assert before.startswith("#") or re.match(r"[A-Z]", before), line


def test_the_example_can_be_read_once_the_secrets_are_set(tmp_path: Path) -> None:
    filled = lines("") | {"AEGIS_FLOWER_AUTH": "operator:secret", "AEGIS_ADMIN_TOKEN": "secret"}
    (tmp_path / "settings").write_text("".join(f"{name}={value}\n" for name, value in filled.items()))
    assert Settings(_env_file=tmp_path / "settings").urls(Engine.VLLM) == ("http://vllm:8000",)


def test_secrets_have_no_value_that_could_be_left_as_it_is() -> None:
    assert {name: lines("")[name] for name in SECRETS} == dict.fromkeys(SECRETS, "")
    for name in SECRETS:
        assert f"${{{name}:?" in COMPOSE


def started(service: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What the entrypoint of a service does, in the environment that compose would give it."""
    [line] = re.findall(rf'(?ms)^  {service}:$.*?^    entrypoint:\n      - sh\n      - -c\n      - (".*?")$', COMPOSE)
    shell = ["sh", "-c", json.loads(line).replace("$$", "$"), service]
    return subprocess.run(shell, env=environment, capture_output=True, text=True, check=False)


def test_grafana_does_not_start_without_a_password_of_its_own() -> None:
    [given] = re.findall(r"^      GF_SECURITY_ADMIN_PASSWORD: (.*)$", COMPOSE, re.MULTILINE)
    assert given == "${GRAFANA_PASSWORD:-}"
    refused = started("grafana", GF_SECURITY_ADMIN_PASSWORD="")
    assert refused.returncode != 0
    assert "set GRAFANA_PASSWORD in .env" in refused.stderr
    # With one it comes to the image's own beginning, which is not here.
    assert "/run.sh" in started("grafana", GF_SECURITY_ADMIN_PASSWORD="secret").stderr


def test_a_container_gets_longer_to_stop_than_its_calls() -> None:
    [grace] = re.findall(r"stop_grace_period: \$\{STOP_GRACE_PERIOD:-(\d+)s\}", COMPOSE)
    assert int(grace) >= float(DEFAULTS["AEGIS_SHUTDOWN_GRACE_S"]) + 10
