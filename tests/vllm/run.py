"""Starts a real vLLM and runs its tests: called by `scripts/test-engines`, which sets the paths."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import serving
import vllm_fixtures
from real_vllm import RealVllm

TESTS = Path(__file__).parents[1]
WHAT = (str(TESTS / "engines" / "test_contract.py"), str(TESTS / "vllm"))
RECORD = "--record"
# A test may start the engine twice. By a signal, so that a test that takes too long still stops what it has started.
TIMEOUT = ("--timeout=600", "--override-ini=timeout_method=signal")


def main(arguments: Sequence[str]) -> int:
    """The exit status of the tests."""
    began = time.monotonic()
    os.sched_setaffinity(0, serving.OTHERS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # else the engine's processes would be left behind
    chosen = [argument for argument in arguments if argument != RECORD]
    if not any(Path(argument.partition("::")[0]).exists() for argument in chosen):
        chosen += WHAT
    with (
        tempfile.TemporaryDirectory(prefix="aegis-vllm-") as folder,
        serving.running(Path(folder), *serving.OPEN, dev_mode=True) as server,
    ):
        os.environ |= {"AEGIS_TEST_VLLM_URL": server.url, "AEGIS_TEST_VLLM_MODEL": serving.MODEL}
        plugin = RealVllm(server, Path(folder), record=RECORD in arguments)
        status = pytest.main(["--quiet", "--tb=native", *TIMEOUT, *chosen], plugins=[plugin, vllm_fixtures])
    print(f"scripts/test-engines: {time.monotonic() - began:.0f} s")  # noqa: T201 - its report
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
