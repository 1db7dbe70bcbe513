"""The table "At 3 a.m.": each of its commands, on a system that runs."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import readme
from terminal import Terminal

from aegis_workers.local.system import SIMULATED_MODEL
from aegis_workers.routing import Engine

ROWS = readme.table("what you see", "look", "do")
LOOKS, DEEDS = ([word for row in ROWS for word in readme.words(row[column]) if " " in word] for column in (1, 2))
# What runs until it is stopped: `up` has started one.
STARTED = "aegis-workers controller"
# What is refused, with the reason, where nothing failed: jobs and their tests show what these do elsewhere.
REFUSED = {
    "aegis-workers resume last": "has ended: it is completed",
    "aegis-workers retry last": "nothing to retry",
}


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A terminal beside a system that runs and has done a job."""
    folder = tmp_path_factory.mktemp("operator")
    terminal = Terminal(folder, folder)
    terminal.export(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", AEGIS_HEALTH_DIR=str(folder / "health"))
    system = terminal.start("aegis-workers up --simulate")
    try:
        system.wait_ready(lambda printed: "Ready." in printed)
        (said,) = re.findall(r"export (AEGIS_REDIS_URL=\S+ AEGIS_DATA_DIR=\S+)", system.printed())
        for engine in Engine:
            (url,) = re.findall(rf"{engine.label}: simulator at (\S+)", system.printed())
            terminal.export(**{f"AEGIS_{engine.upper()}_URL": url, f"AEGIS_{engine.upper()}_MODEL": SIMULATED_MODEL})
        terminal.run(f"export {said}; echo 'Ada Stone leads Brightwater Labs.' >page.txt; aegis-workers submit page.txt --wait")
        yield terminal
        system.stop()
    finally:
        system.kill()


@pytest.mark.parametrize("command", dict.fromkeys(LOOKS))
def test_what_one_looks_at_can_be_looked_at(operator: Terminal, command: str) -> None:
    assert operator.run(command).strip()


@pytest.mark.parametrize("command", dict.fromkeys(DEEDS))
def test_what_is_to_be_done_can_be_done(operator: Terminal, command: str) -> None:
    if command == STARTED:
        command = f"{command} --help"
    if command in REFUSED:
        assert REFUSED[command] in operator.run(f"! {command}")
    else:
        operator.run(command)
