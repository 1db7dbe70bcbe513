import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aegis_workers.local import process
from aegis_workers.local.process import Process, ProcessFailed

SLEEPER = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"

PARENT = """
import os, sys, pathlib
from aegis_workers.local import process
code, log = sys.argv[1], pathlib.Path(sys.argv[2])
child = process.start('child', [sys.executable, '-c', code], log=log, env=os.environ)
child.wait_ready(lambda: 'ready' in child.log_text(), 20)
print(child.pid, flush=True)
sys.stdin.read()
"""


def start(tmp_path: Path, code: str) -> Process:
    return process.start("child", [sys.executable, "-c", code], log=tmp_path / "child.log", env=os.environ)


def says_ready(child: Process) -> Callable[[], bool]:
    return lambda: "ready" in child.log_text()


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_that_is_told_to_stop_has_ended(tmp_path: Path) -> None:
    child = start(tmp_path, SLEEPER)
    child.wait_ready(says_ready(child), 20)
    process.stop([child], grace_s=20)
    assert child.popen.returncode == -signal.SIGTERM


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    child = start(tmp_path, STUBBORN)
    child.wait_ready(says_ready(child), 20)
    process.stop([child], grace_s=0.1)
    assert child.popen.returncode == -signal.SIGKILL


def test_children_share_one_grace_period(tmp_path: Path) -> None:
    children = [start(tmp_path, STUBBORN) for _ in range(3)]
    for child in children:
        child.wait_ready(lambda: children[0].log_text().count("ready") == 3, 20)
    begun = time.monotonic()
    process.stop(children, grace_s=0.5)
    assert time.monotonic() - begun < 1.4
    assert [child.popen.returncode for child in children] == [-signal.SIGKILL] * 3


def test_an_early_exit_is_reported_with_the_end_of_the_log(tmp_path: Path) -> None:
    child = start(tmp_path, "import sys; print('no licence for this engine'); sys.exit(3)")
    with pytest.raises(ProcessFailed, match=r"(?s)child ended by itself \(exit 3\).*no licence for this engine"):
        child.wait_ready(lambda: False, 20)


def test_only_the_last_lines_of_a_long_log_are_shown(tmp_path: Path) -> None:
    child = start(tmp_path, "for i in range(9000): print('line', i)")
    with pytest.raises(ProcessFailed) as caught:
        child.wait_ready(lambda: False, 20)
    lines = str(caught.value).splitlines()
    assert lines[-1].strip() == "line 8999"
    assert len(lines) == process.TAIL_LINES + 1


def test_a_child_that_is_never_ready_is_reported(tmp_path: Path) -> None:
    child = start(tmp_path, SLEEPER)
    with pytest.raises(ProcessFailed, match="not ready within 0 s"):
        child.wait_ready(lambda: False, 0.1)
    process.stop([child], grace_s=20)


def test_a_child_that_was_killed_names_the_signal(tmp_path: Path) -> None:
    child = start(tmp_path, SLEEPER)
    child.wait_ready(says_ready(child), 20)
    os.kill(child.pid, signal.SIGKILL)
    wait_until(lambda: not child.is_alive())
    with pytest.raises(ProcessFailed, match="killed by SIGKILL"):
        child.check()


def test_a_command_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    child = process.start("child", ["/no/such/program"], log=tmp_path / "child.log", env=os.environ)
    with pytest.raises(ProcessFailed, match="No such file"):
        child.wait_ready(lambda: False, 20)


def test_a_child_reads_what_it_was_given(tmp_path: Path) -> None:
    code = "import sys; print('ready' if sys.stdin.read() == 'secret' else 'wrong', flush=True)"
    child = process.start("child", [sys.executable, "-c", code], log=tmp_path / "child.log", env=os.environ, given=b"secret")
    child.popen.wait(20)
    assert child.log_text() == "ready\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
@pytest.mark.parametrize("code", [SLEEPER, STUBBORN], ids=["plain", "ignores SIGTERM"])
def test_kill_minus_9_of_the_parent_leaves_no_child(tmp_path: Path, code: str) -> None:
    command = [sys.executable, "-c", PARENT, code, str(tmp_path / "child.log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    wait_until(lambda: gone(pid))
