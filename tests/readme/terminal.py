"""A terminal in a clean clone of the working tree, as a newcomer has it."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from readme import ROOT

NOBODY = "redis://127.0.0.1:1/0"  # whatever Redis this machine has is no part of the test
READY_WITHIN_S = 60.0
STOPPED_WITHIN_S = 20.0

# What is set for the project, for a virtual environment or for these tests, and a newcomer does not have.
_OURS = re.compile(r"AEGIS_|LLM_ENGINE_MODE|DEPLOYMENT_PROFILE|VIRTUAL_ENV|PYTHON|PYTEST|COV_")


def clone(folder: Path) -> Path:
    """A copy of the working tree as git would clone it, with what is not committed yet and without what git ignores."""
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", *ignored))
    return folder


@dataclass
class Running:
    """A command that runs until it is stopped."""

    command: str
    log: Path
    popen: subprocess.Popen[bytes]

    def printed(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def wait_ready(self, is_ready: Callable[[str], bool]) -> None:
        """Returns when what it has printed, or something else, says so."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not is_ready(self.printed()):
            assert self.popen.poll() is None, f"{self.command} ended by itself:\n{self.printed()}"
            assert time.monotonic() < deadline, f"{self.command} was not ready in time:\n{self.printed()}"
            time.sleep(0.05)

    def stop(self) -> None:
        """As Ctrl-C does: it must end well, and leave nothing behind."""
        self.popen.send_signal(signal.SIGTERM)
        assert self.popen.wait(STOPPED_WITHIN_S) == 0, f"{self.command} ended badly:\n{self.printed()}"

    def kill(self) -> None:
        """For the end of a test that failed."""
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()


@dataclass
class Terminal:
    """Runs commands in `folder`; what one of them exports is there for the next."""

    folder: Path
    scratch: Path
    running: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.exports.touch()
        self.export(AEGIS_REDIS_URL=NOBODY, COLUMNS="80", TMPDIR=str(self.scratch), AEGIS_DATA_DIR=str(self.scratch / "data"))

    @property
    def exports(self) -> Path:
        """The variables that were exported, as bash writes them."""
        return self.scratch / "exports"

    def export(self, **variables: str) -> None:
        """Sets variables for what is run from now on."""
        with self.exports.open("a") as file:
            file.writelines(f"export {name}='{value}'\n" for name, value in variables.items())

    def run(self, commands: str) -> str:
        """What `commands` print, on stdout and, for people, on stderr; each of them must succeed."""
        script = f'set -e; . "{self.exports}"\n{commands}\nexport -p >"{self.exports}"'
        ended = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=_environment(), capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"{commands}\nended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"
        return ended.stderr.replace(_PASSWORD_WARNING, "") + ended.stdout

    def start(self, command: str) -> Running:
        """Starts a command that runs until it is stopped."""
        log = self.scratch / f"{len(self.running)}.log"
        script = f'. "{self.exports}"; exec env {command}'
        with log.open("wb") as output:
            popen = subprocess.Popen(
                ["bash", "-c", script], cwd=self.folder, env=_environment(), stdout=output, stderr=output, start_new_session=True
            )
        self.running.append(Running(command, log, popen))
        return self.running[-1]


# redis-cli says so about any URL with a password.
_PASSWORD_WARNING = "Warning: Using a password with '-a' or '-u' option on the command line interface may not be safe.\n"  # noqa: S105


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not _OURS.match(name)}
