"""The README, followed to the letter."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
import readme
import redis
from readme import Block
from terminal import Running, Terminal, clone

from aegis_workers.local import documents
from aegis_workers.local.system import SIMULATED_MODEL
from aegis_workers.routing import Engine
from aegis_workers.state import keys

SYSTEM = "aegis-workers up --simulate"
BEAT = "celery -A switching beat"
SWITCHED_TO = "vllm"
# The commands that run until they are stopped, and what they print once they work. Beat prints nothing: it switches the mode.
LONG_RUNNING: Mapping[str, str] = {
    SYSTEM: "Ready. Ctrl-C stops everything.",
    BEAT: "",
    "aegis-workers simulate": "http://127.0.0.1:",
    "celery -A aegis_workers worker": " ready.",
    "aegis-workers controller": "controller.leads",
    "aegis-workers flower": "http://127.0.0.1:",
}
# Its commands need Docker: scripts/test-containers follows them.
CONTAINERS = "Containers"
HIDDEN_PACKAGE = "import sys; sys.modules['aegis_workers'] = None\n"


class Newcomer:
    """Does what the README says, block by block."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.system: Running | None = None
        self.started: list[Running] = []

    def follow(self, block: Block) -> None:
        """Does what one block says; what is printed must be what the README shows."""
        match block.language:
            case "bash":
                printed = self._type(block.text)
            case "python" if block.text.startswith("# "):
                printed = self._save(block.text)
            case "python":
                printed = self.terminal.run(f"python -c {shlex.quote(_without_package(block.text))}")
            case "ini":
                printed = self._configure(block.text)
            case "text":  # a drawing
                return
            case other:
                raise AssertionError(f"README line {block.line}: nothing runs blocks of {other}")
        said = block.output
        assert said is None or readme.shows(printed, said), f"line {block.line} says\n{said}\nand this was printed:\n{printed}"

    def _type(self, commands: str) -> str:
        """What `commands` print; those that run until they are stopped do so side by side, until all of them work."""
        printed = [self._type_line(command) for command in commands.splitlines()]
        for running in self.started:
            running.wait_ready(partial(self._works, running.command))
            printed.append(running.printed())
            if running.command == SYSTEM:
                self.system = running
                data_dir = self._said_by_system(r"AEGIS_DATA_DIR=(\S+)")
                self.terminal.export(AEGIS_REDIS_URL=self._redis_url(), AEGIS_DATA_DIR=data_dir)
            else:
                running.stop()
        self.started.clear()
        return "".join(printed)

    def _type_line(self, command: str) -> str:
        if command == "scripts/test":  # all tests would run this one again
            command = "scripts/test tests/extraction/test_prompt.py"
        if not command.startswith(tuple(LONG_RUNNING)):
            return self.terminal.run(command)
        self.started.append(self.terminal.start(command))
        return ""

    def _works(self, command: str, printed: str) -> bool:
        if command == BEAT:
            return self._mode() == SWITCHED_TO
        return any(ready in printed for start, ready in LONG_RUNNING.items() if command.startswith(start))

    def _redis_url(self) -> str:
        return self._said_by_system(r"export AEGIS_REDIS_URL=(\S+)")

    def _said_by_system(self, pattern: str) -> str:
        assert self.system is not None, "the README has not started the system yet"
        match = re.search(pattern, self.system.printed())
        assert match, f"`up` does not say {pattern}"
        return match[1]

    def _mode(self) -> str:
        with redis.Redis.from_url(self._redis_url(), decode_responses=True) as client:
            return str(client.get(keys.MODE))

    def _save(self, text: str) -> str:
        """A file under the name in its first line. What it does at one hour of the day first, it does every second here."""
        name = text.splitlines()[0].removeprefix("# ")
        (self.terminal.folder / name).write_text(re.sub(r"crontab\(.*?\)", "1.0", text, count=1))
        return ""

    def _configure(self, text: str) -> str:
        """Settings for engines that are not here: the simulators that run take their place."""
        (self.terminal.folder / ".env").write_text(text)
        for engine in Engine:
            url = self._said_by_system(rf"{engine.label}: simulator at (\S+)")
            self.terminal.export(**{f"AEGIS_{engine.upper()}_URL": url, f"AEGIS_{engine.upper()}_MODEL": SIMULATED_MODEL})
        # A database of their own, and any port: these workers and this Flower are not those of `up`.
        self.terminal.export(AEGIS_REDIS_URL=self._redis_url().removesuffix("/0") + "/1", FLOWER_PORT="0")
        return ""


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    terminal = Terminal(clone(tmp_path / "clone"), scratch)
    yield Newcomer(terminal)
    for running in reversed(terminal.running):
        running.kill()
    shutil.rmtree(terminal.folder / ".venv", ignore_errors=True)  # 300 MB, which pytest would keep


@pytest.mark.timeout(300)  # it installs everything from the package index
def test_a_newcomer_with_a_clean_clone_can_follow_the_readme_from_its_first_line_to_its_last(newcomer: Newcomer) -> None:
    for block in readme.blocks():
        if block.section != CONTAINERS:
            newcomer.follow(block)
    assert newcomer.system is not None
    newcomer.system.stop()
    assert newcomer.system.printed().endswith("Stopped.\n")


def test_a_pipeline_can_install_the_package_from_a_clone(tmp_path: Path) -> None:
    source, site = clone(tmp_path / "clone"), tmp_path / "site"
    alone = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation")  # what it depends on is here already
    subprocess.run([sys.executable, "-m", "pip", "install", *alone, "--target", str(site), str(source)], check=True)
    said = subprocess.run(
        [sys.executable, "-c", "from aegis_workers.local import documents; print(*documents.samples())"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    samples = [Path(sample) for sample in said.stdout.split()]
    assert len(samples) == len(documents.samples())
    assert all(sample.is_relative_to(site) for sample in samples)
    assert (site / "aegis_workers/py.typed").is_file()


def _without_package(snippet: str) -> str:
    """A producer that does not import the package must not need it."""
    return snippet if "aegis_workers import" in snippet else HIDDEN_PACKAGE + snippet
