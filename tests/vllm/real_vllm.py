"""The plugin that has the server which most tests share, and says what was run."""

from collections.abc import Sequence
from pathlib import Path

import exchanges
import pytest
from serving import Server


class RealVllm:
    """A real vLLM that runs, a folder for the logs of others, and the counts of the report.

    `record`: what the engine answers is written down, instead of being compared with what is written.
    """

    def __init__(self, server: Server, logs: Path, *, record: bool) -> None:
        self.server = server
        self.logs = logs
        self.record = record
        self._version = server.version
        self._contract: set[str] = set()
        self._passed: list[str] = []

    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
            if "vllm" in (parameters.get("target"), parameters.get("slow")):
                self._contract.add(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed.append(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        contract = self._contract.intersection(self._passed)
        terminalreporter.section("a real engine")
        terminalreporter.write_line(f"engine: vLLM {self._version} on the CPU, ready after {self._starts()}")
        terminalreporter.write_line(f"contract cases passed on it: {len(contract)} of {len(self._contract)}")
        for line in _changes():
            terminalreporter.write_line(line)

    def _starts(self) -> str:
        return ", ".join(f"{start_s:.0f} s" for start_s in self.server.starts_s)


def _changes() -> list[str]:
    conversations = [*exchanges.load_all(), exchanges.load_faults("vllm")]
    kept = [exchange for conversation in conversations for exchange in conversation.exchanges]
    changed = [f"  {exchange.name}: {exchange.changed}" for exchange in kept if exchange.changed]
    held = f"answers recorded, which the simulator is held against: {len(kept)}; cases in which it had to change: "
    return [held + str(len(changed)), *changed]
